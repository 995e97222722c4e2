package oci

import (
	"golang.org/x/sys/unix"

	"brig/api"
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
