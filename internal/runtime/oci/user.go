package oci

import (
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/mount"
)

// AnnotationUser asks the runtime to look the process's user up in the container's own /etc/passwd and /etc/group: USER[:GROUP] as a user typed
// it, then perhaps more groups, each behind a comma, or KeepGroups alone. It stands in for process.user, which can only hold numbers, since a bundle is written before its root file system can be read.
const AnnotationUser = "org.brig.user"

// KeepGroups, in place of groups, leaves the process those of the runtime's caller.
const KeepGroups = api.KeepGroups

// setgroupsDenied looks, in a process's /proc/PID/setgroups, whether its user namespace denies setgroups(2), as one does that was mapped without root's
// rights: groups can take access away, and who is in one must not get out of it.
func setgroupsDenied(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false // a kernel without user namespaces
	}
	defer unix.Close(fd)
	var b [1]byte
	n, err := unix.Read(fd, b[:])
	return err == nil && n == 1 && b[0] == 'd' // deny
}

// leaveGroups lets the process keep the caller's groups, where it cannot have others.
func (c *child) leaveGroups() error {
	if len(c.groups) > 0 {
		return api.Errorf(api.Unsupported, "process.user.additionalGids: the user namespace denies setgroups(2): leave them out, or map a range of ids, for which there is newgidmap")
	}
	c.keepGroups = true
	return nil
}

// maxPasswd bounds what is read of an image's passwd and group files, in bytes.
const maxPasswd = 4 << 20

// lookUpGroups resolves names and numbers of groups, separated by commas, in root.
func lookUpGroups(root int, list string) ([]int, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if name == "" || strings.TrimSpace(name) != name || name[0] == '-' || name[0] == '+' { // the library takes an empty one for none, and falls over it
			return nil, api.Errorf(api.InvalidArgument, "group %q is not a valid group", name)
		}
	}
	group, err := openPlain(root, "etc/group", strings.Trim(list, "0123456789,") == "")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	ids, err := user.GetAdditionalGroups(names, group)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "groups %s: %w", list, err)
	}
	slices.Sort(ids)
	return ids, nil
}

// lookUpUser resolves USER[:GROUP] in root (a descriptor of the container's root).
func lookUpUser(root int, who string) (*user.ExecUser, error) {
	for part := range strings.SplitSeq(who, ":") {
		if strings.TrimSpace(part) != part || strings.HasPrefix(part, "-") || strings.HasPrefix(part, "+") {
			return nil, api.Errorf(api.InvalidArgument, "user %q is not a valid user or group", who)
		}
	}
	numeric := strings.Trim(who, "0123456789:") == ""
	passwd, err := openPlain(root, "etc/passwd", numeric)
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := openPlain(root, "etc/group", numeric)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	u, err := user.GetExecUser(who, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "user %q: %w", who, err)
	}
	return u, nil
}

// openPlain opens a regular file in root; an empty reader when there is none. A fifo or device there must not hang the runtime: it is refused, or
// passed over where numbers can do without names.
func openPlain(root int, name string, optional bool) (io.ReadCloser, error) {
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if weak.Passwd {
		flags = unix.O_RDONLY
	}
	fd, err := mount.OpenInRoot(root, name, flags, 0)
	if err != nil {
		return io.NopCloser(strings.NewReader("")), nil //nolint:nilerr // an image may have none
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		if optional {
			return io.NopCloser(strings.NewReader("")), nil
		}
		return nil, api.Errorf(api.InvalidArgument, "/%s in the image is not a regular file", name)
	}
	f := os.NewFile(uintptr(fd), name)
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxPasswd), f}, nil
}
