package engine

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/caps"
)

// A container that runs containers (--security-opt nesting) is root of a user namespace that is not the machine's, and has all the rights that come with that: doc/nesting.md
// says what they are. A Brig in it knows that it is nested: package rootless.

// isNesting reports whether a container may run containers.
func isNesting(s *api.ContainerSpec) bool {
	sec, err := parseSecurity(s.Security)
	return err == nil && sec.nesting
}

// checkNesting holds --security-opt against the rest of a spec.
func checkNesting(s *api.ContainerSpec) error {
	sec, err := parseSecurity(s.Security)
	if err != nil || !sec.nesting {
		return err
	}
	switch {
	case s.Privileged:
		return api.Errorf(api.InvalidArgument, "--security-opt nesting conflicts with --privileged, which gives more: leave one of them out")
	case s.UserNS.Mode == "" && !rootless.Active():
		return api.Errorf(api.InvalidArgument, "--security-opt nesting takes a user namespace, or the container would be root of the machine: add --userns auto")
	case !rootless.Active() && slices.ContainsFunc(slices.Concat(s.UserNS.UIDMap, s.UserNS.GIDMap), func(r api.IDRange) bool { return r.Outside == 0 }):
		// Who has root's number may write to the switches of /proc that are root's, without any capability.
		return api.Errorf(api.InvalidArgument, "--security-opt nesting: the map has 0 of the host in it: the container's users must be nobody there: map others, or use --userns auto")
	}
	return nil
}

// rights are the capabilities of a container's root. One that runs containers has all there are in its user namespace.
func rights(s *api.ContainerSpec, privileged bool) ([]string, error) {
	add := s.CapAdd
	if isNesting(s) {
		add = append(slices.Clone(add), "ALL")
	}
	drop := s.CapDrop
	if isChroot(s) && !slices.ContainsFunc(add, func(c string) bool { return strings.EqualFold(c, "ALL") }) {
		drop = append(slices.Clone(drop), chrootDrop)
	}
	return caps.Resolve(add, drop, privileged)
}

// entrustNesting gives a container that runs containers control groups to rule, where it can be done.
func (e *Engine) entrustNesting(c *api.Container) {
	if isNesting(&c.Spec) && e.canEntrust(c, "") == nil {
		c.Spec.Entrusted = true
	}
}

// withNestingDevices is a spec with the devices that networks and file systems of a user's own need, where the host has them.
func withNestingDevices(s *api.ContainerSpec) *api.ContainerSpec {
	with := *s
	with.Devices = slices.Clone(s.Devices)
	for _, path := range [...]string{"/dev/net/tun", "/dev/fuse"} {
		if exists(path) && !slices.ContainsFunc(s.Devices, func(d api.DeviceSpec) bool { return d.Target == path }) {
			with.Devices = append(with.Devices, api.DeviceSpec{Source: path, Target: path, Permissions: "rwm"})
		}
	}
	return &with
}

// checkStore refuses what the kernel would refuse when a container is started, in no words: an overlay's upper folder on another overlay, as a container's root is.
func (e *Engine) checkStore() error {
	if !rootless.Nested() {
		return nil
	}
	dir := e.root
	var st unix.Statfs_t
	for unix.Statfs(dir, &st) != nil && dir != "/" {
		dir = filepath.Dir(dir)
	}
	if st.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return nil
	}
	return api.Errorf(api.Unsupported, "%s lies on an overlay, this container's root, and the kernel mounts no container's root upon another's: give the outer container a volume there, "+
		"as with `brig run -v brig:%s …`, or use another --root", e.root, e.root)
}
