package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"brig/api"
)

// containerFilters are the names that --filter knows for containers, docker's and until and label! of podman's.
func containerFilters() []string {
	return []string{
		"id", "name", "label", "label!", "status", "exited", "ancestor", "before", "since", "until", "volume", "network", "publish", "expose", "health",
	}
}

const filterHelp = "Filter output based on conditions provided: id, name, label, label!, status, exited, ancestor, before, since, until, volume, network, publish, expose, health"

// choose returns those of all that pass every filter, in their order. Values of one filter are alternatives, but for labels, which must all be there.
func (f filters) choose(all []api.Container, now time.Time) ([]api.Container, error) {
	if len(f) == 0 {
		return all, nil
	}
	names, err := nameFilters(f["name"])
	if err != nil {
		return nil, err
	}
	for _, s := range f["status"] {
		switch s {
		case "created", "initialized", "running", "paused", "exited", "dead", "restarting", "removing", "stopped":
		default:
			return nil, fmt.Errorf("invalid filter 'status=%s': the states are created, running, paused, exited, dead, restarting and removing", s)
		}
	}
	for _, s := range f["exited"] {
		if _, err := strconv.Atoi(s); err != nil {
			return nil, fmt.Errorf("invalid filter 'exited=%s': use an exit code", s)
		}
	}
	var bounds struct{ before, since time.Time }
	for _, v := range f["before"] {
		c, err := find(all, v)
		if err != nil {
			return nil, err
		}
		bounds.before = c.Created
	}
	for _, v := range f["until"] {
		t, err := parseTime(v, now)
		if err != nil {
			return nil, err
		}
		bounds.before = t
	}
	for _, v := range f["since"] {
		c, err := find(all, v)
		if err != nil {
			return nil, err
		}
		bounds.since = c.Created
	}
	for _, which := range []string{"publish", "expose"} {
		for _, v := range f[which] {
			if _, _, _, err := portFilter(v); err != nil {
				return nil, fmt.Errorf("invalid filter '%s=%s': use PORT[-PORT][/PROTOCOL]", which, v)
			}
		}
	}
	var chosen []api.Container
	for i := range all {
		c := &all[i]
		if !bounds.before.IsZero() && !c.Created.Before(bounds.before) || !bounds.since.IsZero() && !c.Created.After(bounds.since) {
			continue
		}
		if f.matches(c, names) {
			chosen = append(chosen, *c)
		}
	}
	return chosen, nil
}

// find returns the container of a name, an ID or the beginning of one.
func find(all []api.Container, name string) (*api.Container, error) {
	for i := range all {
		if all[i].Name == name || all[i].ID == name {
			return &all[i], nil
		}
	}
	for i := range all {
		if name != "" && strings.HasPrefix(all[i].ID, name) {
			return &all[i], nil
		}
	}
	return nil, api.Errorf(api.NotFound, "no such container: %s", name)
}

// nameFilters compiles the patterns of --filter name, which docker reads as regular expressions.
func nameFilters(patterns []string) ([]*regexp.Regexp, error) {
	var all []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("invalid filter name=%s: %w", p, err)
		}
		all = append(all, re)
	}
	return all, nil
}

// matches reports whether c passes every filter that looks at nothing but c.
func (f filters) matches(c *api.Container, names []*regexp.Regexp) bool {
	named := len(names) == 0 || slices.ContainsFunc(names, func(re *regexp.Regexp) bool {
		return re.MatchString(c.Name) || re.MatchString("/"+c.Name)
	})
	return named &&
		f.any("id", func(v string) bool { return strings.HasPrefix(c.ID, v) }) &&
		f.any("status", func(v string) bool {
			return string(c.State.Status) == v || v == "stopped" && c.State.Status == api.StatusExited // podman's word
		}) &&
		f.any("exited", func(v string) bool {
			ended := c.State.Status == api.StatusExited && c.State.Exit != nil
			return ended && strconv.Itoa(c.State.Exit.Code) == v
		}) &&
		f.any("health", func(v string) bool { return healthOf(c) == v }) &&
		f.any("ancestor", func(v string) bool { return ofImage(c, v) }) &&
		f.any("volume", func(v string) bool {
			return slices.ContainsFunc(c.Spec.Mounts, func(m api.MountSpec) bool { return m.Source == v || m.Target == v })
		}) &&
		f.any("pod", func(v string) bool { return c.Spec.Pod != "" && strings.HasPrefix(c.Spec.Pod, v) }) &&
		f.any("network", func(v string) bool { return onNetwork(c, v) }) &&
		f.any("publish", func(v string) bool { return c.Link != nil && hasPort(c.Link.Ports, v) }) &&
		f.any("expose", func(v string) bool { return hasPort(exposedPorts(c), v) }) &&
		f.labelled(c.Spec.Labels) && f.notLabelled(c.Spec.Labels)
}

// onNetwork reports whether a container is on a network, by its name or, while it runs, its ID.
func onNetwork(c *api.Container, network string) bool {
	return slices.Contains(networkNames(c), network) ||
		c.Link != nil && len(network) >= 12 && slices.ContainsFunc(c.Link.Endpoints, func(e api.Endpoint) bool { return strings.HasPrefix(e.NetworkID, network) })
}

// notLabelled reports whether labels have none of those of the filter label!.
func (f filters) notLabelled(labels map[string]string) bool {
	for _, unwanted := range f["label!"] {
		if (filters{"label": {unwanted}}).labelled(labels) {
			return false
		}
	}
	return true
}

// exposedPorts are those that image and user name, published or not.
func exposedPorts(c *api.Container) []api.PortSpec {
	ports := slices.Clone(c.Spec.Network.Ports)
	for text := range c.ImageConfig.ExposedPorts {
		if first, last, protocol, err := portFilter(text); err == nil {
			for p := first; p <= last; p++ {
				ports = append(ports, api.PortSpec{ContainerPort: uint16(p), Protocol: protocol})
			}
		}
	}
	return ports
}

// portFilter reads PORT[-PORT][/PROTOCOL].
func portFilter(s string) (first, last int, protocol string, err error) {
	s, protocol, found := strings.Cut(s, "/")
	if !found {
		protocol = "tcp"
	}
	first, last, err = portRange(s)
	return first, last, protocol, err
}

func hasPort(ports []api.PortSpec, filter string) bool {
	first, last, protocol, err := portFilter(filter)
	return err == nil && slices.ContainsFunc(ports, func(p api.PortSpec) bool {
		return p.Protocol == protocol && first <= int(p.ContainerPort) && int(p.ContainerPort) <= last
	})
}

// ofImage reports whether image, a name or an ID, is what c was made from.
func ofImage(c *api.Container, image string) bool {
	id, wanted := strings.TrimPrefix(c.Image, "sha256:"), strings.TrimPrefix(image, "sha256:")
	return tagged(c.ImageName) == tagged(image) || len(wanted) >= 4 && strings.HasPrefix(id, wanted)
}
