package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Hugetlb mounts the hugetlb controller as version 1 in this mount namespace, on a host where the others are version 1. Without it crun
// starts no container there. The kernel gives the controller back to version 2 when the namespace and the groups in it are gone.
//
// Where the kernel does not give it away, since a group of version 2 has it, version 2's controllers are hidden from crun instead, and
// why says so: crun then works, but nothing can limit huge pages.
func Hugetlb() (why string, err error) {
	const dir, v2 = "/sys/fs/cgroup/hugetlb", "/sys/fs/cgroup/unified/cgroup.controllers"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "", nil // version 2 alone
	}
	if _, err := os.Stat(filepath.Join(dir, "tasks")); err == nil {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	err = unix.Mount("cgroup", dir, "cgroup", 0, "hugetlb")
	if err == nil {
		return "", nil
	}
	why = fmt.Sprintf("the hugetlb controller cannot be mounted as version 1: %v", err)
	if list, rerr := os.ReadFile(v2); !errors.Is(err, unix.EBUSY) || rerr != nil || !strings.Contains(string(list), "hugetlb") {
		return why, nil
	}
	empty, err := os.CreateTemp("", "controllers")
	if err != nil {
		return why, err
	}
	defer os.Remove(empty.Name())
	defer empty.Close()
	if err := unix.Mount(empty.Name(), v2, "", unix.MS_BIND, ""); err != nil {
		return why, fmt.Errorf("hide %s: %w", v2, err)
	}
	return why + "; a group of version 2 has it (cgroup.subtree_control)", nil
}
