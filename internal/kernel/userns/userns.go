// Package userns writes the mappings of user namespaces: user_namespaces(7). Who may not write them has newuidmap(1) and newgidmap(1) do so, which are
// set-user-ID root and know from subuid(5) which ids a user was given.
package userns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/proc"
)

// Map gives the user namespace that process pid has just made its mappings. Without root's rights a caller may map its own ids alone, which needs no
// helper but takes setgroups(2) away, or what /etc/subuid and /etc/subgid say.
func Map(pid int, uids, gids []specs.LinuxIDMapping) error {
	procfs, err := proc.Open()
	if err != nil {
		return err
	}
	defer unix.Close(procfs)
	dir := strconv.Itoa(pid)
	err = proc.Write(procfs, dir+"/uid_map", lines(uids))
	if err == nil {
		err = proc.Write(procfs, dir+"/gid_map", lines(gids))
		if !errors.Is(err, unix.EPERM) {
			return wrap(err)
		}
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return wrap(err)
	}
	if len(uids) == 1 && len(gids) == 1 && own(uids[0], os.Geteuid()) && own(gids[0], os.Getegid()) {
		if err := proc.Write(procfs, dir+"/setgroups", "deny"); err != nil {
			return wrap(err)
		}
		if err := proc.Write(procfs, dir+"/uid_map", lines(uids)); err != nil && !errors.Is(err, unix.EPERM) { // EPERM: it was written above
			return wrap(err)
		}
		return wrap(proc.Write(procfs, dir+"/gid_map", lines(gids)))
	}
	groups := make(chan error, 1)
	go func() { groups <- helper("newgidmap", pid, gids) }() // each writes a file of its own
	err = helper("newuidmap", pid, uids)
	if gerr := <-groups; err == nil {
		err = gerr
	}
	return err
}

func own(m specs.LinuxIDMapping, id int) bool { return m.Size == 1 && int(m.HostID) == id }

func wrap(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EINVAL) {
		return api.Errorf(api.InvalidArgument, "user namespace: the kernel refuses the mappings: ranges overlap, are empty, or there are more than 340: %w", err)
	}
	return fmt.Errorf("user namespace: %w", err)
}

// lines are the mappings as the kernel reads them: first id inside, first id outside, count.
func lines(list []specs.LinuxIDMapping) string {
	var b []byte
	for _, m := range list {
		b = fmt.Appendf(b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return string(b)
}

func helper(name string, pid int, list []specs.LinuxIDMapping) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return api.Errorf(api.Unsupported, "user namespace: more ids than your own need %s, which is not there: install Debian's package uidmap", name)
	}
	args := []string{strconv.Itoa(pid)}
	for _, m := range list {
		args = append(args, strconv.FormatUint(uint64(m.ContainerID), 10), strconv.FormatUint(uint64(m.HostID), 10), strconv.FormatUint(uint64(m.Size), 10))
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		return api.Errorf(api.InvalidArgument, "user namespace: %s: %w: %s: are these ids yours, in /etc/subuid and /etc/subgid?", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// Validate refuses mappings that no kernel takes. field is their name in config.json.
func Validate(field string, list []specs.LinuxIDMapping) error {
	const maxLines = 340 // user_namespaces(7), since Linux 4.15
	if len(list) > maxLines {
		return api.Errorf(api.InvalidArgument, "%s: %d ranges: the kernel takes %d", field, len(list), maxLines)
	}
	for i, m := range list {
		if m.Size == 0 {
			return api.Errorf(api.InvalidArgument, "%s[%d].size is 0", field, i)
		}
		if uint64(m.ContainerID)+uint64(m.Size) > 1<<32 || uint64(m.HostID)+uint64(m.Size) > 1<<32 {
			return api.Errorf(api.InvalidArgument, "%s[%d]: the range reaches beyond the last id, 4294967295", field, i)
		}
		for j, o := range list[:i] {
			if overlap(m.ContainerID, o.ContainerID, m.Size, o.Size) || overlap(m.HostID, o.HostID, m.Size, o.Size) {
				return api.Errorf(api.InvalidArgument, "%s[%d] overlaps with %s[%d]", field, i, field, j)
			}
		}
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// Has reports whether id inside is mapped.
func Has(list []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range list {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return true
		}
	}
	return false
}
