// Package users looks users and groups up in the files of a container, which may be an attacker's: links in them do not lead out of its root, what is no regular file is not opened, and no
// more is read than a number of bytes.
package users

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

// User is who a process is to be.
type User struct {
	UID, GID   int
	Groups     []int  // more than GID
	Home       string // "/" where the files do not say
	KeepGroups bool   // it keeps those of the runtime's caller too
}

// Resolve looks up USER[:GROUP] in root, a descriptor of the container's root, and more groups, each behind a comma; api.KeepGroups in their place, alone, is no group.
func Resolve(root int, who string) (User, error) {
	who, groups, more := strings.Cut(who, ",")
	found, err := Find(root, who)
	if err != nil {
		return User{}, err
	}
	u := User{UID: found.Uid, GID: found.Gid, Groups: found.Sgids, Home: found.Home}
	if groups == api.KeepGroups {
		u.KeepGroups = true
	} else if more {
		ids, err := Groups(root, groups)
		if err != nil {
			return User{}, err
		}
		u.Groups = append(u.Groups, ids...)
	}
	return u, nil
}

// maxPasswd bounds what is read of an image's passwd and group files, in bytes.
const maxPasswd = 4 << 20

// Groups resolves names and numbers of groups, separated by commas, in root.
func Groups(root int, list string) ([]int, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if name == "" || strings.TrimSpace(name) != name || name[0] == '-' || name[0] == '+' { // the library takes an empty one for none, and falls over it
			return nil, api.Errorf(api.InvalidArgument, "group %q is not a valid group", name)
		}
	}
	group, err := Open(root, "etc/group", strings.Trim(list, "0123456789,") == "")
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

// Find resolves USER[:GROUP] in root (a descriptor of the container's root).
func Find(root int, who string) (*user.ExecUser, error) {
	for part := range strings.SplitSeq(who, ":") {
		if strings.TrimSpace(part) != part || strings.HasPrefix(part, "-") || strings.HasPrefix(part, "+") {
			return nil, api.Errorf(api.InvalidArgument, "user %q is not a valid user or group", who)
		}
	}
	numeric := strings.Trim(who, "0123456789:") == ""
	passwd, err := Open(root, "etc/passwd", numeric)
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := Open(root, "etc/group", numeric)
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

// Open opens a regular file in root; an empty reader when there is none. A fifo or device there must not hang the runtime: it is refused, or
// passed over where numbers can do without names.
func Open(root int, name string, optional bool) (io.ReadCloser, error) {
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
