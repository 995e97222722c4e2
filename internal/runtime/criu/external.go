package criu

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
)

// netKey names the network namespace that a container was given by path.
const netKey = "extRootNetNS" // runc's word, so that either can restore

// Validate refuses by name what criu's command line cannot save or make again.
func Validate(s *specs.Spec) error {
	if s.Process.Terminal {
		return api.Errorf(api.Unsupported, "process.terminal: a container with a terminal cannot be checkpointed: criu's command line has no way to hand the new terminal's master end out")
	}
	ownMounts := false
	for _, n := range s.Linux.Namespaces {
		switch {
		case n.Type == specs.UserNamespace:
			return api.Errorf(api.Unsupported, "linux.namespaces: a container in a user namespace cannot be checkpointed by this version of brig-oci")
		case n.Type == specs.MountNamespace && n.Path == "":
			ownMounts = true
		case n.Path != "" && n.Type != specs.NetworkNamespace:
			return api.Errorf(api.Unsupported, "linux.namespaces: a container that joined the %s namespace %s cannot be checkpointed: only network namespaces may be given by path", n.Type, n.Path)
		}
	}
	if !ownMounts {
		return api.Errorf(api.Unsupported, "linux.namespaces: a container without a mount namespace of its own cannot be checkpointed")
	}
	return nil
}

func isBind(m *specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

func isCgroup(m *specs.Mount) bool { return !isBind(m) && (m.Type == "cgroup" || m.Type == "cgroup2") }

func destination(p string) string { return path.Clean("/" + p) }

// cgroupMounts are the places of the host's cgroup folders in the container, and those folders.
func cgroupMounts(m *specs.Mount, g *cgroup.Group) (list [][2]string) {
	dest := destination(m.Destination)
	if g == nil {
		return nil
	}
	all := g.Hierarchies()
	for _, h := range all {
		switch {
		case h.Controllers == nil && (len(all) == 1 || m.Type == "cgroup2"):
			return [][2]string{{dest, h.Dir}}
		case m.Type == "cgroup":
			list = append(list, [2]string{path.Join(dest, path.Base(h.Mount)), h.Dir})
		}
	}
	return list
}

// outside are all mounts of a container whose sources are the host's: places in it, and sources.
func outside(s *specs.Spec, bundle string, g *cgroup.Group) (list [][2]string) {
	for i := range s.Mounts {
		m := &s.Mounts[i]
		switch {
		case isBind(m):
			src := m.Source
			if !path.IsAbs(src) {
				src = path.Join(bundle, src)
			}
			list = append(list, [2]string{destination(m.Destination), src})
		case isCgroup(m):
			list = append(list, cgroupMounts(m, g)...)
		}
	}
	return list
}

// DumpExternal is what a dump is told of what lies outside of container s, whose first process is pid.
func DumpExternal(s *specs.Spec, g *cgroup.Group, pid int) ([]string, error) {
	var list []string
	for _, m := range outside(s, "", g) {
		list = append(list, "mnt["+m[0]+"]:"+m[0])
	}
	root, err := openRoot(pid)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	for _, p := range s.Linux.MaskedPaths { // files only: a folder's mask is a file system of the container's own
		if is, err := isFile(root, p); err != nil {
			return nil, err
		} else if is {
			list = append(list, "mnt["+destination(p)+"]:"+destination(p))
		}
	}
	if netPath(s) != "" {
		var st unix.Stat_t
		name := "/proc/" + strconv.Itoa(pid) + "/ns/net"
		if err := unix.Stat(name, &st); err != nil {
			return nil, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		list = append(list, fmt.Sprintf("net[%d]:%s", st.Ino, netKey))
	}
	return list, nil
}

// RestoreExternal is what a restore is told: the sources are the bundle's, whatever the archive says.
func RestoreExternal(s *specs.Spec, bundle string, g *cgroup.Group) []string {
	var list []string
	for _, m := range outside(s, bundle, g) {
		list = append(list, "mnt["+m[0]+"]:"+m[1])
	}
	for _, p := range s.Linux.MaskedPaths {
		list = append(list, "mnt["+destination(p)+"]:/dev/null")
	}
	return list
}

func netPath(s *specs.Spec) string {
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path
		}
	}
	return ""
}

// NetNS opens the network namespace that the bundle gives, and returns its key; nil: it gives none.
func NetNS(s *specs.Spec) (*os.File, string, error) {
	p := netPath(s)
	if p == "" {
		return nil, "", nil
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, "", api.Errorf(api.InvalidArgument, "linux.namespaces: network: %w", err)
	}
	return f, netKey, nil
}

// CgroupRoots are the roots below which a restore is to find all cgroups of an archive.
func CgroupRoots(g *cgroup.Group) (list []string) {
	if g == nil {
		return nil
	}
	for _, h := range g.Hierarchies() {
		own := "/" + strings.TrimPrefix(strings.TrimPrefix(h.Dir, h.Mount), "/")
		if h.Controllers == nil {
			list = append(list, own)
		}
		for _, c := range h.Controllers {
			list = append(list, c+":"+own)
		}
	}
	return list
}

func openRoot(pid int) (int, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/root"
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// isFile reports whether p is there and no folder.
func isFile(root int, p string) (bool, error) {
	fd, err := mount.OpenInRoot(root, destination(p), unix.O_PATH, 0)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR, os.NewSyscallError("fstat", err)
}
