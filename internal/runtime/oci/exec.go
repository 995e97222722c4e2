package oci

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/proc"
	"brig/internal/kernel/pty"
)

// devptsMagic is DEVPTS_SUPER_MAGIC of linux/magic.h.
const devptsMagic = 0x1cd1

// ExecRequest is one more process for a running container.
type ExecRequest struct {
	Pid      int    // the container's first process
	Ticks    uint64 // its start time, to tell it from a later process with its number; 0: it is the caller's child
	Process  *specs.Process
	User     string // as AnnotationUser
	Seccomp  Filter
	Cgroup   *cgroup.Group // nil: none
	Root     string        // Container.Mount of a container whose mounts are among the host's; "": the root of its mount namespace
	Stdio    [3]int
	Preserve int   // as in Request
	Given    []int // as in Request
	Tools    int   // a detached mount that the process, and it alone, finds at api.ToolsDir; 0: none

	// ID names the session keyring to join; "" or NoNewKeyring: none. It and Bundle are for the agent of a seccomp listener too.
	ID           string
	Bundle       string
	NoNewKeyring bool
	// Container is the container's configuration, whose first process's attributes hold where Process names none; nil: they do not.
	Container *specs.Spec
}

// Exec forks a process into the namespaces and cgroup of a running container. It waits for Start.
func Exec(req *ExecRequest) (*Process, error) {
	if err := validateProcess(req.Process); err != nil {
		return nil, err
	}
	var p *Process
	err := onThread(func() (err error) {
		p, err = join(req)
		return err
	})
	if err == nil {
		err = p.Ready()
	}
	if err != nil {
		if p != nil {
			p.Abandon()
		}
		return nil, err
	}
	return p, nil
}

// join enters the container on this thread and forks.
func join(req *ExecRequest) (*Process, error) {
	pidfd, err := unix.PidfdOpen(req.Pid, 0)
	if err != nil {
		return nil, api.Errorf(api.Conflict, "the container is not running")
	}
	defer unix.Close(pidfd)
	if req.Ticks != 0 && !proc.Alive(req.Pid, req.Ticks) { // looked at when it is open: the number cannot become another's any more
		return nil, api.Errorf(api.Conflict, "the container is not running")
	}
	attr, err := execAttributes(req)
	if err != nil {
		return nil, err
	}
	defer func() { attr.close() }()
	// The child sets the cgroup namespace itself, after it has joined the cgroup from outside.
	cgroupNS, err := unix.Open(fmt.Sprintf("/proc/%d/ns/cgroup", req.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, api.Errorf(api.Conflict, "the container is not running")
	}
	defer unix.Close(cgroupNS)
	shared := isHere(cgroupNS, specs.CgroupNamespace)
	userNS, err := OtherUserNS(req.Pid)
	if err != nil {
		return nil, err
	}
	var uidMap []byte
	if userNS > 0 {
		defer unix.Close(userNS)
		if uidMap, err = os.ReadFile("/proc/" + strconv.Itoa(req.Pid) + "/uid_map"); err != nil { // now, while /proc is the host's
			return nil, err
		}
	}
	var tasks []*os.File
	var unified *os.File
	if req.Cgroup != nil {
		if tasks, unified, err = req.Cgroup.JoinFiles(); err != nil {
			return nil, err
		}
	}
	defer func() {
		for _, f := range append(tasks, unified) {
			if f != nil {
				f.Close()
			}
		}
	}()
	denied := setgroupsDenied("/proc/" + strconv.Itoa(req.Pid) + "/setgroups") // now, as above
	root, err := enterContainer(req, pidfd)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	c, err := prepare(req.Process, req.User, req.Seccomp, root, req.Stdio)
	if err != nil {
		return nil, err
	}
	c.give(attr)
	attr = attributes{}
	defer c.attr.close()
	if denied {
		if err := c.leaveGroups(); err != nil {
			return nil, err
		}
	}
	var console *os.File
	if req.Process.Terminal {
		owner, err := outerID(uidMap, int(c.uid))
		if err != nil {
			return nil, err
		}
		master, slave, err := execConsole(root, req.Process)
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		c.terminal(slave)
		unix.Fchown(c.console, owner, -1)
		console = master
	}
	c.userNS = userNS
	c.inherit(req.Preserve, req.Given)
	if req.Root != "" {
		c.root = root
	}
	if !shared {
		c.cgroupNSFD = cgroupNS
	}
	p, err := launch(c, c.join(tasks, unified), req.Process.Args[0])
	if err != nil {
		if console != nil {
			console.Close()
		}
		return nil, err
	}
	p.Console = console
	return p, nil
}

// enterContainer takes this thread into the container's namespaces and opens the container's root.
func enterContainer(req *ExecRequest, pidfd int) (root int, err error) {
	if req.Root != "" {
		if root, err = unix.Open(req.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil { // before its mounts are left for good
			return -1, &os.PathError{Op: "open", Path: req.Root, Err: err}
		}
		if req.Tools == 0 {
			if err := joinOthers(pidfd, req.Pid); err != nil {
				unix.Close(root)
				return -1, err
			}
			return root, nil
		}
		defer unix.Close(root)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if req.Root != "" {
		if err = joinOthers(pidfd, req.Pid); err == nil {
			err = enterRoot(root)
		}
	} else {
		err = joinNamespaces(pidfd, req.Pid)
	}
	if err != nil {
		return -1, err
	}
	if req.Tools > 0 {
		if err := lendTools(req.Tools); err != nil {
			return -1, err
		}
	}
	root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	return root, nil
}

// joinOthers enters those of a process's namespaces that are not this thread's, one by one: where there is none it asks for no right.
func joinOthers(pidfd, pid int) error {
	flags := 0
	for _, n := range homeNamespaces {
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return api.Errorf(api.Conflict, "the container is not running")
		}
		if !isHere(fd, n.kind) {
			flags |= n.flag
		}
		unix.Close(fd)
	}
	if flags == 0 {
		return nil
	}
	return joinError(unix.Setns(pidfd, flags))
}

// joinNamespaces enters a process's namespaces.
func joinNamespaces(pidfd, pid int) error {
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWPID
	err := unix.Setns(pidfd, all)
	if err == unix.EPERM { // those that the container shares with us may belong to somebody else
		return joinOthers(pidfd, pid)
	}
	return joinError(err)
}

func joinError(err error) error {
	if err == unix.ESRCH {
		return api.Errorf(api.Conflict, "the container is not running")
	}
	if err != nil {
		return fmt.Errorf("joining the container's namespaces: %w", err)
	}
	return nil
}

// OtherUserNS opens the user namespace of a process; 0: it is this process's own.
func OtherUserNS(pid int) (int, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, api.Errorf(api.Conflict, "the container is not running")
	}
	if isHere(fd, specs.UserNamespace) {
		unix.Close(fd)
		return 0, nil
	}
	return fd, nil
}

// outerID is who a user of a user namespace is outside of it, by its uid_map; none: they are the same.
func outerID(uidMap []byte, id int) (int, error) {
	if uidMap == nil {
		return id, nil
	}
	for line := range strings.Lines(string(uidMap)) {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return 0, fmt.Errorf("uid_map: %w", err)
		}
		if id >= inside && id < inside+size {
			return outside + id - inside, nil
		}
	}
	return 0, api.Errorf(api.InvalidArgument, "process.user.uid: %d is not mapped in the container's user namespace", id)
}

// execConsole makes a pseudo-terminal in the container that this thread has joined. What is at /dev/pts is the container's to say, so it is checked.
func execConsole(root int, p *specs.Process) (master, slave *os.File, err error) {
	fd, err := mount.OpenInRoot(root, "dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != devptsMagic {
		return nil, nil, api.Errorf(api.InvalidArgument, "a terminal needs a devpts file system at /dev/pts of the container")
	}
	master, slave, err = pty.Open(fd)
	if err == nil && p.ConsoleSize != nil {
		pty.Resize(int(master.Fd()), uint16(p.ConsoleSize.Height), uint16(p.ConsoleSize.Width))
	}
	return master, slave, err
}
