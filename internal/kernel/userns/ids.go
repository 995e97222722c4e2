package userns

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// Mapped reports whether this process's namespace has an id; kind is uid or gid.
func Mapped(kind string, id uint32) bool {
	data, err := os.ReadFile("/proc/self/" + kind + "_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		var first, outside, count uint64
		if n, _ := fmt.Sscan(line, &first, &outside, &count); n == 3 && uint64(id) >= first && uint64(id) < first+count {
			return true
		}
	}
	return false
}

// Place is what this process's namespace has, kind uid or gid: who 0 is outside, how many ids follow on 0, and with which of them a range of the map begins: a range of a namespace
// within this one must lie in one of these.
func Place(kind string) (outside, more uint32, begins []uint32, err error) {
	path := "/proc/self/" + kind + "_map"
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, nil, err
	}
	next := uint64(0)
	for line := range strings.Lines(string(data)) { // in the order that they were written in
		var first, out, count uint64
		if n, _ := fmt.Sscan(line, &first, &out, &count); n != 3 || first != next {
			break
		}
		if first == 0 {
			outside = uint32(out)
		}
		begins = append(begins, uint32(first))
		next += count
	}
	if next == 0 {
		return 0, 0, nil, fmt.Errorf("%s: it maps no 0", path)
	}
	return outside, uint32(min(next-1, 1<<32-2)), begins, nil
}

// Own is the mapping that a normal user gets for containers: the user is root, and the ids from 1 on are those that subuid(5) and subgid(5) give, in their
// order there. Where they give none, or newuidmap is not there to map them, it is the user alone, and lack says why.
func Own(uid, gid int) (uids, gids []specs.LinuxIDMapping, lack error) {
	uids, gids = only(uid), only(gid)
	for _, name := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(name); err != nil {
			return uids, gids, api.Errorf(api.Unsupported, "%s is not there: install Debian's package uidmap", name)
		}
	}
	names := []string{strconv.Itoa(uid)}
	if name := userName("/etc/passwd", uid); name != "" {
		names = append(names, name)
	}
	subuids, err := ranges("/etc/subuid", 1, names)
	if err != nil {
		return uids, gids, err
	}
	subgids, err := ranges("/etc/subgid", 1, names)
	if err != nil {
		return uids, gids, err
	}
	return append(uids, subuids...), append(gids, subgids...), nil
}

func only(id int) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(id), Size: 1}}
}

// userName is the name of a user in a file in the form of passwd(5); empty where it has none there.
func userName(file string, uid int) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(line, ":", 4)
		if len(fields) == 4 && fields[2] == strconv.Itoa(uid) {
			return fields[0]
		}
	}
	return os.Getenv("USER") // a user of a directory service; newuidmap asks that itself
}

// User is a line of passwd(5).
type User struct{ Name, Gecos, Home string }

// Account is the host's account of a user. One who has none in /etc/passwd has the number for a name.
func Account(uid int) User {
	data, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 6 && fields[2] == strconv.Itoa(uid) {
			return User{fields[0], fields[4], fields[5]}
		}
	}
	return User{Name: strconv.Itoa(uid), Home: "/"}
}

// Subordinate are the ranges that the files in the form of subuid(5) give names, mapped one after the other from id 0 on. Those who have none are api.Unsupported.
func Subordinate(uidName, gidName string) (uids, gids []specs.LinuxIDMapping, err error) {
	if uids, err = ranges("/etc/subuid", 0, []string{uidName}); err == nil {
		gids, err = ranges("/etc/subgid", 0, []string{gidName})
	}
	return uids, gids, err
}

// ranges are the lines of a file in the form of subuid(5) that are for one of names, mapped one after the other from id next on.
func ranges(file string, next uint64, names []string) ([]specs.LinuxIDMapping, error) {
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var list []specs.LinuxIDMapping
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || !slices.Contains(names, fields[0]) {
			continue
		}
		first, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", file, strings.TrimSpace(line), err)
		}
		count, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", file, strings.TrimSpace(line), err)
		}
		count = min(count, 1<<32-1-next, 1<<32-1-first)
		if count == 0 || slices.ContainsFunc(list, func(m specs.LinuxIDMapping) bool { return overlap(m.HostID, uint32(first), m.Size, uint32(count)) }) {
			continue
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: uint32(next), HostID: uint32(first), Size: uint32(count)})
		next += count
	}
	if len(list) == 0 {
		name := names[len(names)-1]
		return nil, api.Errorf(api.Unsupported, "%s gives user %s no ids: have root run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s`", file, name, name)
	}
	return list, nil
}
