package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/runtime/shim"
)

// resolve turns what a spec says of other containers into what does not change when they are renamed or removed, and what it leaves to the
// image into what the image says.
func (e *Engine) resolve(c *api.Container) error {
	s := &c.Spec
	if user := userOf(s, c.ImageConfig.User); strings.Contains(user, ",") { // behind a comma are the groups of --group-add, which no image may ask for
		return api.Errorf(api.InvalidArgument, "user %q is not a valid user or group", user)
	}
	if s.Pod != "" && !s.Infra {
		if err := e.intoPod(s); err != nil {
			return err
		}
	}
	if err := e.resolveNamespaces(s); err != nil {
		return err
	}
	if len(s.VolumesFrom) > 0 {
		if err := e.volumesFrom(s); err != nil {
			return err
		}
	}
	for i, name := range s.Requires {
		other, err := e.meta.Container(name)
		if err != nil {
			return err
		}
		s.Requires[i] = other.ID
	}
	if s.Network.PublishAll {
		publishAll(&s.Network, c.ImageConfig.ExposedPorts)
	}
	return nil
}

// publishAll publishes what is exposed and not published, on free ports.
func publishAll(n *api.NetworkSpec, image map[string]struct{}) {
	exposed := slices.Clone(n.Expose)
	for p := range image {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		exposed = append(exposed, p)
	}
	slices.Sort(exposed)
	for _, p := range slices.Compact(exposed) {
		number, protocol, _ := strings.Cut(p, "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || port == 0 || protocol != "tcp" && protocol != "udp" {
			continue // an image may say what it likes
		}
		spec := api.PortSpec{ContainerPort: uint16(port), Protocol: protocol}
		if !slices.ContainsFunc(n.Ports, func(o api.PortSpec) bool { return o.ContainerPort == spec.ContainerPort && o.Protocol == protocol }) {
			n.Ports = append(n.Ports, spec)
		}
	}
}

// volumesFrom adds the mounts of other containers, where the container has none of its own. An anonymous volume that two containers have
// stays as long as one of them is there.
func (e *Engine) volumesFrom(s *api.ContainerSpec) error {
	for i, from := range s.VolumesFrom {
		name, mode, _ := strings.Cut(from, ":")
		readOnly := false
		for m := range strings.SplitSeq(mode, ",") {
			switch m {
			case "ro":
				readOnly = true
			case "", "rw", "z", "Z":
			default:
				return api.Errorf(api.InvalidArgument, "volumes-from %s: the mode %q is not ro or rw", from, m)
			}
		}
		other, err := e.meta.Container(name)
		if err != nil {
			return err
		}
		s.VolumesFrom[i] = other.ID
		if readOnly {
			s.VolumesFrom[i] += ":ro"
		}
		for _, m := range other.Spec.Mounts {
			if m.Type == "tmpfs" || slices.ContainsFunc(s.Mounts, func(o api.MountSpec) bool { return filepath.Clean(o.Target) == filepath.Clean(m.Target) }) {
				continue
			}
			if m.Type == "volume" {
				rec, err := e.volume(m.Source)
				if err == nil && rec.Anonymous && !rec.Shared {
					rec.Shared = true
					err = e.putVolume(m.Source, rec, lasting(&other, true))
				}
				if err != nil {
					return api.Errorf(api.KindOf(err), "volumes-from %s: volume %s: %w", name, m.Source, err)
				}
			}
			m.ReadOnly = m.ReadOnly || readOnly
			s.Mounts = append(s.Mounts, m)
		}
	}
	return nil
}

// checkMore is the part of check about the rarer settings.
func checkMore(s *api.ContainerSpec) error {
	if err := more(&specs.Spec{Annotations: map[string]string{}, Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}, s); err != nil {
		return err
	}
	for _, g := range s.Groups {
		switch {
		case g == "" || strings.ContainsAny(g, ",:"):
			return api.Errorf(api.InvalidArgument, "group %q is not a valid group", g)
		case g == api.KeepGroups && len(s.Groups) > 1:
			return api.Errorf(api.InvalidArgument, "the '--group-add %s' option is not allowed with any other --group-add options", api.KeepGroups)
		}
	}
	if p := s.CgroupParent; p != "" && strings.Contains("/"+p+"/", "/../") {
		return api.Errorf(api.InvalidArgument, "cgroup parent %q: it may not lead upwards", p)
	}
	if s.InitPath != "" {
		if fi, err := os.Stat(s.InitPath); err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
			return api.Errorf(api.InvalidArgument, "init path %s is not a program of the host", s.InitPath)
		}
	}
	return nil
}

// notePID writes the number of the container's first process where the user wants it.
func (e *Engine) notePID(c *api.Container) error {
	s, err := shim.ReadState(e.sandboxDir(c.ID))
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Spec.PidFile, []byte(strconv.Itoa(s.Pid)), 0o644); err != nil {
		return api.Errorf(api.KindOf(err), "pidfile: %w", err)
	}
	return nil
}
