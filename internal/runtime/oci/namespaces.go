package oci

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// hasNamespace reports whether the container gets a new namespace of that type.
func hasNamespace(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	for _, n := range s.Linux.Namespaces {
		if n.Type == t {
			return n.Path == ""
		}
	}
	return false
}

func namespaceFlag(t specs.LinuxNamespaceType) int {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME // which this thread's children enter, not the thread
	}
	return 0 // the child makes its cgroup namespace, after it has joined
}

// enterNamespaces joins the namespaces that are given and makes the others, for this thread alone. mounts reports whether its mounts are the container's now: without
// a mount namespace they are the host's.
func enterNamespaces(req *Request) (mounts bool, err error) {
	flags := unix.CLONE_FS
	newNet := false
	mnt := -1 // joined last: paths mean something else then
	for i, n := range req.Spec.Linux.Namespaces {
		switch {
		case n.Type == specs.UserNamespace: // this thread is in it
		case n.Type == specs.NetworkNamespace && req.NetNS >= 0:
			if err := joinNamespace(req.NetNS, n.Type); err != nil {
				return false, fmt.Errorf("joining the network namespace: %w", err)
			}
		case n.Path == "":
			flags |= namespaceFlag(n.Type)
			newNet = newNet || n.Type == specs.NetworkNamespace
			mounts = mounts || n.Type == specs.MountNamespace
		case n.Type == specs.TimeNamespace, n.Type == specs.CgroupNamespace: // the child joins: setns(2), EUSERS; and after it has joined its cgroup
		default:
			fd, err := openNamespace(req, i)
			if err != nil {
				return false, err
			}
			if n.Type == specs.MountNamespace {
				mnt = fd
				defer unix.Close(fd)
				continue
			}
			err = joinNamespace(fd, n.Type)
			unix.Close(fd)
			if err == unix.EPERM && n.Type == specs.PIDNamespace && req.staged != nil {
				return false, api.Errorf(api.Unsupported, "config.json: linux.namespaces[%d]: the PID namespace %s does not belong to the container's user namespace: join both of one container, or neither", i, n.Path)
			}
			if err != nil {
				return false, api.Errorf(api.InvalidArgument, "linux.namespaces[%d]: joining the %s namespace %s: %w", i, n.Type, n.Path, err)
			}
		}
	}
	err = unix.Unshare(flags)
	if flags == unix.CLONE_FS && mnt < 0 && (err == unix.EPERM || err == unix.ENOSYS) { // a filter that forbids namespaces forbids this along: the thread needs it for its umask only, which build gives back
		err = nil
	}
	if err != nil {
		if err == unix.ENOSPC {
			return false, api.Errorf(api.Exhausted, "new namespaces: the limit of /proc/sys/user/max_*_namespaces is reached")
		}
		if err == unix.EPERM {
			return false, api.Errorf(api.Unsupported, "new namespaces: %w: run as root, or give the container a user namespace: `brig-oci spec --rootless` shows how", err)
		}
		return false, fmt.Errorf("new namespaces: %w", err)
	}
	if newNet {
		if err := loopbackUp(); err != nil {
			return false, err
		}
	}
	if err := timeOffsets(req.Spec.Linux.TimeOffsets); err != nil {
		return false, err
	}
	if mnt >= 0 && !isHere(mnt, specs.MountNamespace) {
		if err := unix.Setns(mnt, unix.CLONE_NEWNS); err != nil {
			return false, api.Errorf(api.InvalidArgument, "linux.namespaces: joining the mount namespace: %w", err)
		}
		mounts = true
	}
	return mounts, nil
}

// openNamespace opens the i-th of linux.namespaces, which has a path; a stage was given it.
func openNamespace(req *Request, i int) (int, error) {
	n := &req.Spec.Linux.Namespaces[i]
	if req.staged != nil {
		fd, err := unix.FcntlInt(uintptr(req.staged.namespaces[i]), unix.F_DUPFD_CLOEXEC, firstFD)
		return fd, os.NewSyscallError("fcntl", err)
	}
	fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // whatever it is, a pipe too
	if err != nil {
		return -1, api.Errorf(api.InvalidArgument, "linux.namespaces[%d]: %s: %w", i, n.Type, &os.PathError{Op: "open", Path: n.Path, Err: err})
	}
	return fd, nil
}

// joinNamespace enters a namespace unless the thread is in it already, as a stage may be.
func joinNamespace(fd int, t specs.LinuxNamespaceType) error {
	err := unix.Setns(fd, namespaceFlag(t))
	if err != nil && isHere(fd, t) {
		return nil
	}
	return err
}

// loopbackUp sets lo up in this thread's network namespace.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
