package oci

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// labelled adds linux.mountLabel, the SELinux context of all files, to the options of a new file system. The kernel takes none for proc, sysfs,
// mqueue and cgroup2, which have labels of their own by the policy. fsconfig(2) takes the context as it is, without the quotation marks of mount(8).
func (b *builder) labelled(fstype string, options []string) []string {
	label := b.spec.Linux.MountLabel
	if label == "" {
		return options
	}
	switch fstype {
	case "proc", "sysfs", "mqueue", "cgroup2":
		return options
	}
	return append(options[:len(options):len(options)], "context="+label)
}

// labelQueues labels the root of a new mqueue, which the containers' processes must be able to enter: as runc does.
func (b *builder) labelQueues(fd int, fstype string) error {
	label := b.spec.Linux.MountLabel
	if label == "" || fstype != "mqueue" {
		return nil
	}
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Fsetxattr(dir, "security.selinux", []byte(label), 0)
		unix.Close(dir)
	}
	if err != nil {
		return fmt.Errorf("linux.mountLabel: %w", err)
	}
	return nil
}
