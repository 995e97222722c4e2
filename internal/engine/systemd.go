package engine

import (
	"fmt"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/cgroup"
)

// What systemd asks of who runs it in a container stands in https://systemd.io/CONTAINER_INTERFACE: file systems that are empty at its start, control groups of
// version 2 to rule, the variable "container", a terminal as /dev/console where there is one, and a signal of its own to end.

const (
	cgroupPlace       = "/sys/fs/cgroup"
	systemdStopSignal = "SIGRTMIN+3" // systemd(1): halt.target
)

// isSystemd reports whether a command looks like systemd's: podman's rule, "sh -c" in front of it included.
func isSystemd(args []string) bool {
	if len(args) > 2 && args[0] == "/bin/sh" && args[1] == "-c" {
		args = args[2:]
	}
	switch args[0] {
	case "/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init":
		return true
	}
	return path.Base(args[0]) == "systemd"
}

// resolveSystemd decides whether the container is set up for systemd. What only looks like it runs as any other command where that cannot be done, with a warning.
func (e *Engine) resolveSystemd(c *api.Container, out api.Streams) error {
	s := &c.Spec
	if s.Systemd == api.SystemdFalse || s.Systemd == "" && (!isSystemd(c.Args) || s.Init) { // behind an init it is not the first process
		return nil
	}
	if err := e.systemdFits(c); err != nil {
		if s.Systemd == api.SystemdAlways {
			return err
		}
		if out.Stderr != nil {
			fmt.Fprintf(out.Stderr, "WARNING: %s is not set up for systemd: %v\n", c.Args[0], err)
		}
		return nil
	}
	s.Systemd, s.Entrusted = api.SystemdAlways, true
	if s.StopSignal == "" && c.ImageConfig.StopSignal == "" {
		s.StopSignal = systemdStopSignal
	}
	return nil
}

// systemdFits says why a container cannot be set up for systemd.
func (e *Engine) systemdFits(c *api.Container) error {
	s := &c.Spec
	switch {
	case s.Init:
		return api.Errorf(api.InvalidArgument, "--systemd=always conflicts with --init: systemd is the first process itself: leave --init out")
	case s.Namespaces.PID != "" && s.Namespaces.PID != api.NamespacePrivate:
		return api.Errorf(api.InvalidArgument, "--systemd=always conflicts with --pid %s: systemd is the first process of a PID namespace: leave --pid out", s.Namespaces.PID)
	}
	return e.canEntrust(c, "--systemd=always")
}

// canEntrust says why a container cannot be given a part of its control group to rule, which flag asks for.
func (e *Engine) canEntrust(c *api.Container, flag string) error {
	s := &c.Spec
	if !e.hasGroups() {
		return api.Errorf(api.Unsupported, "%s: a container without root's rights has no control group, which systemd cannot do without: run it as root", flag)
	}
	if ns := s.Namespaces.CgroupNS; ns != "" && ns != api.NamespacePrivate {
		return api.Errorf(api.InvalidArgument, "%s conflicts with --cgroupns %s: the container needs a cgroup namespace of its own: leave --cgroupns out", flag, ns)
	}
	for _, m := range s.Mounts {
		if path.Clean(m.Target) == cgroupPlace {
			return api.Errorf(api.InvalidArgument, "%s conflicts with a mount at %s: it mounts the container's own control group there: leave the mount out", flag, cgroupPlace)
		}
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	return layout.CanEntrust()
}

// entrustedCgroup is the part of a container's control group that it rules. It is version 2's alone, also on a hybrid machine: systemd would look for a hierarchy of
// version 1 of its own, which has no place in a container.
var entrustedCgroup = specs.Mount{Type: "cgroup2", Source: "cgroup", Destination: cgroupPlace, Options: []string{"nosuid", "noexec", "nodev", "rw"}}

// systemdMounts are podman's: with the image's files in them.
func systemdMounts() (list []specs.Mount) {
	for _, m := range [...][2]string{{"/run", "0755"}, {"/run/lock", "1777"}, {"/tmp", "1777"}, {"/var/log/journal", "0755"}} {
		list = append(list, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: m[0], Options: []string{"nosuid", "nodev", "tmpcopyup", "mode=" + m[1]}})
	}
	return list
}

// hasOwn reports whether the container has a mount at a place that its image declares a volume, as images for systemd in docker's containers do, to get it
// out of the way of a file system of layers.
func hasOwn(s *api.ContainerSpec, place string) bool {
	return s.Entrusted && place == cgroupPlace ||
		s.Systemd == api.SystemdAlways && slices.ContainsFunc(systemdMounts(), func(m specs.Mount) bool { return m.Destination == place })
}

// systemdEnv tells systemd that it is in a container, in which, and what its machine ID is where the image has none: machine-id(5).
func systemdEnv(c *api.Container) []string {
	return []string{"container=brig", "container_uuid=" + c.ID[:32]}
}
