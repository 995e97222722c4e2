package monitor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
	"brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/users"
)

// annotationUser is oci.AnnotationUser: who the process is to be, in the names of the container's own files.
const annotationUser = "org.brig.user"

// inner is the configuration that gVisor is given: the user's, without what the box does already, on the tree at wire.RootPath.
func inner(user *specs.Spec) (*specs.Spec, error) {
	s := &specs.Spec{
		Version: user.Version, Hostname: user.Hostname, Domainname: user.Domainname, Process: user.Process,
		Root:  &specs.Root{Path: wire.RootPath, Readonly: user.Root.Readonly},
		Linux: &specs.Linux{}, // no filter: the default one protects a kernel that the Sentry stands in for, and one of the user's is refused
	}
	s.Process.ApparmorProfile, s.Process.SelinuxLabel = "", "" // of the box
	for _, n := range user.Linux.Namespaces {
		switch n.Type {
		case specs.NetworkNamespace:
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n.Type, Path: "/proc/self/ns/net"}) // the box's
		case specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace:
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n.Type})
		}
	}
	root, err := unix.Open(wire.RootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: wire.RootPath, Err: err}
	}
	defer unix.Close(root)
	if err := as(s.Process, user.Annotations[annotationUser], root); err != nil {
		return nil, err
	}
	if err := ownPlaces(root); err != nil {
		return nil, err
	}
	s.Mounts, err = mounts(user.Mounts, root, user.Root.Readonly)
	return s, err
}

// ownFolders are where the Sentry mounts file systems of its own, asked for or not.
var ownFolders = []string{"/dev", "/proc", "/sys"}

// ownPlaces refuses a tree with a link where the Sentry mounts what programs trust to be there: gVisor would follow it.
func ownPlaces(root int) error {
	for _, dir := range ownFolders {
		var st unix.Stat_t
		if err := unix.Fstatat(root, dir[1:], &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("mount %s: what the container's tree has there is not a folder: make it one", dir)
		}
	}
	return nil
}

// as makes the process that of who, in the names of root's files; of its own numbers where who is empty. It has a HOME.
func as(p *specs.Process, who string, root int) error {
	named := who != ""
	if !named {
		who = fmt.Sprint(p.User.UID)
	}
	u, err := users.Resolve(root, who)
	if err != nil && named {
		return err
	}
	if named {
		p.User.UID, p.User.GID = uint32(u.UID), uint32(u.GID)
		for _, g := range u.Groups {
			p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
		}
	}
	if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		home := u.Home
		if home == "" {
			home = "/"
		}
		p.Env = append(slices.Clip(p.Env), "HOME="+home)
	}
	return nil
}

// mounts are the Sentry's own file systems, as the user's configuration has them, and what is bound into the tree: each by itself, since the Sentry looks for other
// writers' changes in what is mounted, and must know it for a mount.
func mounts(list []specs.Mount, root int, readOnly bool) ([]specs.Mount, error) {
	var out []specs.Mount
	tmp := false
	for _, m := range list {
		m.Destination = filepath.Clean("/" + m.Destination)
		tmp = tmp || m.Destination == "/tmp"
		if wire.OfInfra(&m) { // which gVisor knows by its source
			m.Type, m.Source = "tmpfs", shmSource
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == wire.OptionInfra })
		}
		if !wire.Bound(&m) {
			if m.Destination == "/proc" && m.Type != "proc" {
				return nil, errors.New("only a proc file system may be mounted on /proc") // what is bound there the box has refused
			}
			m.Options = last(m.Options)
			if m.Type == "tmpfs" && !kernels(m.Destination) {
				place, err := cover(root, m.Destination)
				if err != nil {
					return nil, err
				}
				m.Destination = place
			}
			out = append(out, m)
			continue
		}
		place, err := within(root, m.Destination)
		if errors.Is(err, os.ErrNotExist) {
			continue // what was mounted later hides it
		}
		if err != nil {
			return nil, err
		}
		b := specs.Mount{Type: "bind", Source: place, Destination: strings.TrimPrefix(place, wire.RootPath), Options: []string{"rbind"}}
		for _, o := range m.Options {
			switch o {
			case "nosuid", "nodev", "noexec", "noatime":
				b.Options = append(b.Options, o)
			case "ro", "rro":
				b.Options = append(b.Options, "ro")
			}
		}
		out = append(out, b)
	}
	// gVisor puts a tmpfs over a /tmp that is empty, where nobody would find its files again.
	var st unix.Stat_t
	if err := unix.Fstatat(root, "tmp", &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && !tmp && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		b := specs.Mount{Type: "bind", Source: wire.RootPath + "/tmp", Destination: "/tmp", Options: []string{"rbind"}}
		if readOnly {
			b.Options = append(b.Options, "ro")
		}
		out = append(out, b)
	}
	return out, nil
}

// kernels reports whether a place is in a file system that the Sentry makes anew.
func kernels(place string) bool {
	return slices.ContainsFunc(ownFolders, func(dir string) bool { return place == dir || strings.HasPrefix(place, dir+"/") })
}

// cover makes the folder that a tmpfs of the Sentry's is to be mounted on, and returns where it is when links are followed. On the host nothing can be written there: it would be
// beneath the tmpfs, where nobody inside sees it.
func cover(root int, name string) (string, error) {
	fd, err := mount.MkdirAllInRoot(root, name, 0o755)
	if err != nil {
		return "", fmt.Errorf("mount %s: %w", name, err)
	}
	defer unix.Close(fd)
	place, err := placeOf(fd, name)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	lid, err := mount.New("tmpfs", "tmpfs", []string{fmt.Sprintf("mode=%o", st.Mode&0o7777), fmt.Sprintf("uid=%d", st.Uid), fmt.Sprintf("gid=%d", st.Gid), "size=4k"}, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(lid)
	if err := mount.Attach(lid, fd); err != nil {
		return "", fmt.Errorf("mount %s: %w", name, err)
	}
	return strings.TrimPrefix(place, wire.RootPath), nil
}

// last are a mount's options without those that a later one takes back, which gVisor would follow all the same.
func last(options []string) []string {
	back := func(o string) string {
		switch o {
		case "exec", "suid", "dev", "atime":
			return "no" + o
		case "noexec", "nosuid", "nodev", "noatime":
			return o[2:]
		case "ro":
			return "rw"
		case "rw":
			return "ro"
		}
		return ""
	}
	var out []string
	for _, o := range options {
		out = slices.DeleteFunc(out, func(x string) bool { return x == back(o) })
		out = append(out, o)
	}
	return out
}

// within is where name lies, when the tree's links are followed as in its root, as a path of the box's.
func within(root int, name string) (string, error) {
	fd, err := mount.OpenInRoot(root, name, unix.O_PATH, 0)
	if err != nil {
		return "", fmt.Errorf("mount %s: %w", name, err)
	}
	defer unix.Close(fd)
	return placeOf(fd, name)
}

// placeOf is where an open file of the tree lies, as a path of the box's.
func placeOf(fd int, name string) (string, error) {
	place, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(place, wire.RootPath+"/") || path.Clean(place) != place {
		return "", fmt.Errorf("mount %s: it is not in the container's tree, but at %s", name, place)
	}
	return place, nil
}
