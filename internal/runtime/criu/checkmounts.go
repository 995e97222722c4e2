package criu

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
)

func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// mounted is a line of a mount table.
type mounted struct{ point, fstype string }

// mountTable reads proc_pid_mountinfo(5), by the mounts' numbers.
func mountTable(text string) map[int]mounted {
	table := map[int]mounted{}
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		id, err := strconv.Atoi(strings.SplitN(line, " ", 2)[0])
		if err != nil || len(f) < 5 {
			continue
		}
		fstype, _, _ := strings.Cut(after, " ")
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
		table[id] = mounted{point, fstype}
	}
	return table
}

// mountCheck looks at the mounts of a container that is stopped.
type mountCheck struct {
	root  int
	table map[int]mounted
	known []string // places of mounts that are as they must be
	below []string // places with any mounts below
}

// place is one place in the container.
type place struct {
	st unix.Stat_t
	fs unix.Statfs_t
	m  mounted
}

// look opens a place; nil: there is none.
func (c *mountCheck) look(name string) (*place, error) {
	fd, err := mount.OpenInRoot(c.root, destination(name), unix.O_PATH, 0)
	if missing(err) {
		return nil, nil //nolint:nilnil // nothing is there
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	p := &place{}
	if err := unix.Fstat(fd, &p.st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if err := unix.Fstatfs(fd, &p.fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	id, _ := mountID(string(info))
	p.m = c.table[id]
	c.known = append(c.known, p.m.point)
	return p, nil
}

// checkMounts holds the mounts of process pid against the bundle. more: the container may have made some itself.
func checkMounts(s *specs.Spec, bundle string, g *cgroup.Group, pid int, more bool) error {
	root, err := openRoot(pid)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return err
	}
	c := &mountCheck{root: root, table: mountTable(string(text)), known: []string{"/"}}
	if p, err := c.look("/"); err != nil {
		return err
	} else if s.Root.Readonly && p.fs.Flags&unix.ST_RDONLY == 0 {
		return refused("its root is not read-only, and root.readonly is true")
	}
	for i := range s.Mounts {
		if err := c.spec(&s.Mounts[i], bundle); err != nil {
			return err
		}
		if isCgroup(&s.Mounts[i]) {
			for _, m := range cgroupMounts(&s.Mounts[i], g) {
				if err := c.bound(m[0], m[1]); err != nil {
					return err
				}
			}
		}
	}
	if err := c.covered(s.Linux); err != nil || more {
		return err
	}
	for _, m := range c.table {
		ok := false
		for _, k := range c.known {
			ok = ok || m.point == k
		}
		for _, b := range c.below {
			ok = ok || strings.HasPrefix(m.point, b+"/")
		}
		if !ok {
			return refused("a %s is mounted on %s, which config.json does not name", m.fstype, m.point)
		}
	}
	return nil
}

// spec checks one of config.json's mounts.
func (c *mountCheck) spec(m *specs.Mount, bundle string) error {
	dest := destination(m.Destination)
	p, err := c.look(dest)
	if err != nil {
		return err
	}
	if p == nil {
		return refused("nothing is mounted on %s", dest)
	}
	for _, o := range m.Options {
		flag := int64(0)
		switch o {
		case "ro":
			flag = unix.ST_RDONLY
		case "nosuid":
			flag = unix.ST_NOSUID
		case "nodev":
			flag = unix.ST_NODEV
		case "noexec":
			flag = unix.ST_NOEXEC
		case "rbind":
			c.below = append(c.below, p.m.point)
		}
		if p.fs.Flags&flag != flag && !(isCgroup(m) && flag == unix.ST_RDONLY) {
			return refused("the mount on %s is not %s", dest, o)
		}
	}
	switch {
	case isBind(m):
		src := m.Source
		if !path.IsAbs(src) {
			src = path.Join(bundle, src)
		}
		return c.bound(dest, src)
	case !isCgroup(m) && p.m.fstype != m.Type:
		return refused("a %s is mounted on %s, and not a %s", p.m.fstype, dest, m.Type)
	}
	return nil
}

// bound wants the folder or file source of the host's at a place.
func (c *mountCheck) bound(dest, source string) error {
	p, err := c.look(dest)
	if err != nil {
		return err
	}
	var want unix.Stat_t
	if err := unix.Stat(source, &want); err != nil {
		return &os.PathError{Op: "stat", Path: source, Err: err}
	}
	if p == nil || p.st.Dev != want.Dev || p.st.Ino != want.Ino {
		return refused("what is mounted on %s is not %s", dest, source)
	}
	return nil
}

// covered checks what is to be hidden and read-only.
func (c *mountCheck) covered(l *specs.Linux) error {
	for _, name := range l.MaskedPaths {
		p, err := c.look(name)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		null := p.st.Mode&unix.S_IFMT == unix.S_IFCHR && p.st.Rdev == unix.Mkdev(1, 3)
		empty := p.st.Mode&unix.S_IFMT == unix.S_IFDIR && p.m.fstype == "tmpfs" && p.fs.Flags&unix.ST_RDONLY != 0
		if !null && !empty {
			return refused("%s is not hidden, and linux.maskedPaths has it", name)
		}
	}
	for _, name := range l.ReadonlyPaths {
		p, err := c.look(name)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		if p.fs.Flags&unix.ST_RDONLY == 0 {
			return refused("%s is not read-only, and linux.readonlyPaths has it", name)
		}
		c.below = append(c.below, p.m.point) // a copy of what was mounted below
	}
	return nil
}
