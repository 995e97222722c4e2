package oci

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/userns"
)

// validateMounts refuses what is wrong with mounts, the root's propagation, masked and read-only paths and devices.
func validateMounts(s *specs.Spec) error {
	userNS := usesUserNS(s) != nil
	for i := range s.Mounts {
		if err := validateMount(&s.Mounts[i], userNS); err != nil {
			return api.Errorf(api.KindOf(err), "config.json: mounts[%d]%w", i, err)
		}
		if len(s.Mounts[i].UIDMappings) == 0 {
			continue
		}
		if err := userns.Validate(fmt.Sprintf("config.json: mounts[%d].uidMappings", i), s.Mounts[i].UIDMappings); err != nil {
			return err
		}
		if err := userns.Validate(fmt.Sprintf("config.json: mounts[%d].gidMappings", i), s.Mounts[i].GIDMappings); err != nil {
			return err
		}
	}
	if p := s.Linux.RootfsPropagation; p != "" {
		if _, _, ok := propagationFlag(p); !ok {
			return api.Errorf(api.InvalidArgument, "config.json: linux.rootfsPropagation: unknown value %q: shared, slave, private and unbindable are known, and these with an r in front", p)
		}
	}
	for name, list := range map[string][]string{"maskedPaths": s.Linux.MaskedPaths, "readonlyPaths": s.Linux.ReadonlyPaths} {
		for i, p := range list {
			if strings.IndexByte(p, 0) >= 0 || path.Clean("/"+p) == "/" {
				return api.Errorf(api.InvalidArgument, "config.json: linux.%s[%d]: %q is not a path below the root", name, i, p)
			}
		}
	}
	return validateDevices(s.Linux.Devices)
}

// validateMount returns an error that begins where "mounts[i]" ends.
func validateMount(m *specs.Mount, userNS bool) error {
	bad := func(format string, args ...any) error { return api.Errorf(api.InvalidArgument, format, args...) }
	if m.Destination == "" {
		return bad(".destination is empty")
	}
	for _, s := range append([]string{m.Destination, m.Source, m.Type}, m.Options...) {
		if strings.IndexByte(s, 0) >= 0 {
			return bad(": %q has a NUL byte", s)
		}
	}
	opts, dest := parseOptions(m), destination(m)
	if dest == "/" && !opts.remount {
		return bad(".destination: a mount may not replace the container's root")
	}
	if rest, ok := strings.CutPrefix(dest, "/proc/"); ok {
		first, _, _ := strings.Cut(rest, "/")
		if first == "self" || first == "thread-self" || strings.Trim(first, "0123456789") == "" {
			return bad(".destination: %s belongs to a process: a mount there could hide what is written to it", dest)
		}
	}
	if dest == "/proc" && m.Type != "proc" && !opts.bind && !opts.remount && opts.beneath == "" {
		return bad(".destination: only a proc file system may be mounted on /proc")
	}
	mapped := len(m.UIDMappings) + len(m.GIDMappings)
	switch {
	case opts.remount && opts.idmap:
		return bad(".options: a remount cannot map IDs (idmap, ridmap, uidMappings, gidMappings)")
	case opts.remount && opts.copyUp:
		return bad(".options: a remount is no new file system to copy into (tmpcopyup)")
	case opts.remount && opts.legacy():
		return bad(".options: a remount takes no iversion, and no option of more than %d bytes", maxFsconfig)
	case opts.remount:
		return nil
	case opts.tmpCopyUp && (opts.bind || m.Type != "tmpfs"):
		return bad(".options: tmpcopyup is for tmpfs")
	case opts.bind && m.Source == "":
		return bad(".source is empty: a bind mount shows a path of the host")
	case !opts.bind && m.Type == "":
		return bad(".type is empty, and the options have neither bind nor rbind")
	case (len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0) && mapped > 0:
		return bad(": uidMappings and gidMappings must both be there")
	case opts.subpath != "" && !opts.bind:
		return bad(".options: %s is for a bind mount", OptionSubpath)
	case opts.secret != nil && (!opts.bind || opts.recBind):
		return bad(".options: %s is for a bind mount of one file", OptionSecret)
	case opts.owner != nil && (mapped > 0 || !opts.bind):
		return bad(".options: %s is for a bind mount without uidMappings and gidMappings", OptionOwner)
	case opts.idmap && mapped == 0 && !userNS && opts.owner == nil:
		return bad(".options: idmap without uidMappings and gidMappings takes those of the container's user namespace, and it has none")
	case opts.bind:
		return nil
	case opts.idmap && userNS:
		return bad(".options: a new file system in a user namespace has that namespace's IDs: only a bind mount can be ID-mapped there")
	}
	if m.Type == "proc" || m.Type == "cgroup" || m.Type == "cgroup2" {
		switch {
		case opts.idmap:
			return bad(": file system %s has no ID-mapped mounts", m.Type)
		case opts.copyUp:
			return bad(".options: copyup is not for file system %s", m.Type)
		case opts.legacy():
			return bad(".options: iversion, and options of more than %d bytes, are not for file system %s", maxFsconfig, m.Type)
		case m.Type != "proc" && opts.forBind() != "":
			return bad(".options: %q is an option of the host's hierarchy, which a container does not change", opts.forBind())
		}
	}
	return nil
}

// validateDevices checks linux.devices. Numbers end where the kernel's dev_t does: 12 bits for the major number, 20 for the minor one.
func validateDevices(list []specs.LinuxDevice) error {
	for i := range list {
		d := &list[i]
		bad := func(format string, args ...any) error {
			return api.Errorf(api.InvalidArgument, "config.json: linux.devices[%d]%s", i, fmt.Sprintf(format, args...))
		}
		kind := deviceKind(d.Type)
		switch {
		case kind == 0:
			return bad(".type: unknown type %q: c, u, b and p are known", d.Type)
		case !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" || path.Clean(d.Path) == "/dev" || strings.IndexByte(d.Path, 0) >= 0:
			return bad(".path: %q is no absolute path of a file", d.Path)
		case d.Type != "p" && (d.Major < 0 || d.Major >= 1<<12):
			return bad(".major: %d is not in 0 to 4095", d.Major)
		case d.Type != "p" && (d.Minor < 0 || d.Minor >= 1<<20):
			return bad(".minor: %d is not in 0 to 1048575", d.Minor)
		}
	}
	return nil
}

// maxLinkName is the longest name of a network interface: IFNAMSIZ of linux/if.h, less the zero.
const maxLinkName = 15

// validateNetDevices checks linux.netDevices: config-linux.md, "Network Devices".
func validateNetDevices(list map[string]specs.LinuxNetDevice, ownNet bool) error {
	if len(list) == 0 {
		return nil
	}
	if !ownNet {
		return api.Errorf(api.InvalidArgument, "config.json: linux.netDevices: the container has no network namespace to move them to: add one to linux.namespaces")
	}
	seen := map[string]string{}
	for host, d := range list {
		inside := d.Name
		if inside == "" {
			inside = host
		}
		for _, n := range []string{host, inside} {
			if !validLinkName(n) {
				return api.Errorf(api.InvalidArgument, "config.json: linux.netDevices: %q is not a name that a network interface can have", n)
			}
		}
		if other, taken := seen[inside]; taken {
			return api.Errorf(api.InvalidArgument, "config.json: linux.netDevices: %s and %s would both be %s", min(host, other), max(host, other), inside)
		}
		seen[inside] = host
	}
	return nil
}

// validLinkName is dev_valid_name of net/core/dev.c. A percent sign would be a pattern that the kernel fills in.
func validLinkName(n string) bool {
	return n != "" && len(n) <= maxLinkName && n != "." && n != ".." && !strings.ContainsAny(n, "/:% \t\n\v\f\r\x00") && strings.IndexByte(n, 0xa0) < 0
}
