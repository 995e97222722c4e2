package oci

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/internal/base/weak"
	"brig/internal/kernel/caps"
)

// child is everything that the forked child needs, prepared in memory that it inherits: C strings, arrays and open descriptors.
type child struct {
	cgroupTasks []int // v1 "tasks" files to join by writing "0"
	cgroupNS    bool  // unshare the cgroup namespace after joining
	cgroupNSFD  int   // or join this one; 0: neither
	cgroupInit  int   // "cgroup.procs" file to go on to then, by writing "0"; 0: none
	userNS      int   // user namespace to join, 0: none

	procs []childProc // what must be made by a process of the new PID namespace
	early bool        // it is born before the mounts, and told when they are there

	// talk is its end of the socket to its parent: it says [2]int32{stage, errno} of a failure and {stageReady, 0} when it waits, and is told a word. The end
	// of it is the parent's death; a successful execve closes it.
	talk     int
	other    int // the parent's end, of which the child has a copy
	message  message
	gate     int    // listening socket at which a held child waits for its start, whoever makes it; -1: none
	root     int    // descriptor of the root to enter before anything of the user's runs; -1: as it is
	shut     [2]int // descriptors of the builder alone, to be closed at birth; -1: none
	preserve int    // how many descriptors after the standard streams the process inherits
	given    []int  // the child's own copy of which they are to become; nil: they are in their places
	tells    bool   // AnnotationTells

	pidfd   int32 // of the child, which the kernel writes here
	shares  bool  // the parent's memory, until it executes: see forkSharing
	stack   *[sharedStack]byte
	sigmask uint64 // of the thread that forked it

	sibling    bool // it is the child of this process's parent
	startHooks []startHook
	state      []byte // room for a word and the container's state behind it, for the hooks
	stateLen   uintptr

	setsid       bool
	console      int // terminal to become the controlling one, -1: none
	stdio        [3]int
	noNewPrivs   bool
	rlimits      []rlimit
	seccomp      *unix.SockFprog
	seccompFlags uintptr

	dropBounding []uintptr // capabilities to take from the bounding set
	uid, gid     uintptr
	groups       []uint32
	keepGroups   bool // it was asked for, or the user namespace denies setgroups(2)
	home         string
	caps         struct {
		set  bool
		data caps.Data
	}
	ambient []uintptr
	attr    attributes

	listener *listener // nil without SCMP_ACT_NOTIFY

	umask  uintptr
	cwd    *byte
	cwdBuf [4096]byte
	argv   []*byte
	envp   []*byte
	paths  []*byte // candidates to execute, in order
}

// firstFD is the first descriptor after the standard streams: of those that the process inherits, then the talk with the parent when all else is closed.
const firstFD = 3

// Words of the parent to its child: the first byte of a message.
const (
	wordMounted = 'm' // the mounts are there; with a descriptor: this is the terminal
	wordGo      = 'g' // execute; the container's state for its hooks follows
	wordHold    = 'h' // wait at the gate: the parent goes away
)

// childProc is a procfs to be made. A procfs shows the PID namespace of the process that makes it, so the child does and sends it to its parent.
type childProc struct {
	opts [][2]*byte // fsconfig(2) keys and values; a nil value is a flag
	attr uintptr    // MOUNT_ATTR_*
}

type rlimit struct {
	resource uintptr
	limit    unix.Rlimit
}

// Stages of the child, reported with an errno when one fails.
const (
	stageReady = iota + 1
	stageProcMade
	stageProc
	stageGate
	stageRoot
	stageStartHook
	stageCgroup
	stageCgroupNS
	stageUserNS
	stageSession
	stageConsole
	stageStdio
	stageRlimit
	stageNoNewPrivs
	stageSeccomp
	stageBounding
	stageGroups
	stageGID
	stageUID
	stageCaps
	stageAmbient
	stageCwd
	stageCwdOutside
	stageCloseFDs
	stageExec
)

// stageNames are the words for each stage in an error.
var stageNames = [...]string{
	stageProc: "mounting /proc", stageGate: "waiting to be started", stageRoot: "entering the root", stageStartHook: "startContainer hook",
	stageCgroup: "joining the cgroup", stageCgroupNS: "new cgroup namespace", stageUserNS: "joining the user namespace", stageSession: "new session", stageConsole: "controlling terminal",
	stageStdio: "standard streams", stageRlimit: "resource limit", stageNoNewPrivs: "no_new_privs", stageSeccomp: "seccomp filter",
	stageBounding: "capability bounding set", stageGroups: "supplementary groups", stageGID: "group ID", stageUID: "user ID",
	stageCaps: "capabilities", stageAmbient: "ambient capabilities", stageCwd: "working directory",
	stageCwdOutside: "working directory is outside the container's root", stageCloseFDs: "closing descriptors", stageExec: "exec",
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneArgs is struct clone_args of clone3(2), version 2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork makes the child and returns its PID and a pidfd. cgroupFD is a version 2 cgroup to be born in, or -1.
// It must be called on the builder's thread.
func fork(c *child, cgroupFD int) (pid int, pidfd int, err error) {
	c.pidfd = -1
	args := cloneArgs{
		flags:      unix.CLONE_PIDFD,
		pidfd:      uint64(uintptr(unsafe.Pointer(&c.pidfd))), // c is not on the stack, which may move
		exitSignal: uint64(unix.SIGCHLD),
	}
	if c.sibling {
		args.flags |= unix.CLONE_PARENT
		args.exitSignal = 0 // the parent's: clone(2)
	}
	if cgroupFD >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroupFD)
	}
	syscall.ForkLock.Lock()
	clone := forkChild
	if c.shares {
		clone = forkSharing
	}
	p, errno := clone(&args, c)
	if errno == unix.ENOSYS { // before Linux 5.3, and under a system call filter that cannot look into clone3(2)'s arguments, as docker's
		p, errno = forkOld(&args, c)
	}
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, -1, errno
	}
	return int(p), int(c.pidfd), nil
}

// forkChild clones. In the child it never returns.
//
// After the clone the child has one thread, no Go scheduler and a copied heap: nothing below may allocate, grow the stack, take a lock or call
// anything but raw system calls, as in syscall.forkAndExecInChild. All of it is nosplit, so the linker proves that the stack suffices.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkChild(args *cloneArgs, c *child) (uintptr, syscall.Errno) {
	beforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	lead(c)
	return 0, 0
}

// forkOld is forkChild by clone(2), which knows no cgroup to be born in: the child joins that as it joins the others. It shares no memory.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkOld(args *cloneArgs, c *child) (uintptr, syscall.Errno) {
	if args.flags&unix.CLONE_INTO_CGROUP != 0 {
		fd, err := unix.Openat(int(args.cgroup), "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, unix.EACCES
		}
		defer unix.Close(fd)
		c.cgroupTasks = append(c.cgroupTasks, fd)
	}
	const newer = unix.CLONE_INTO_CGROUP | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_VM
	flags, pidfd := uintptr(args.flags&^newer|args.exitSignal), uintptr(unsafe.Pointer(&c.pidfd))
	beforeFork()
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, pidfd, 0, 0, 0) // the pidfd is returned as the parent's TID would be
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	lead(c)
	return 0, 0
}

// lead is the child's whole life. It never returns.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func lead(c *child) {
	stage, errno := runChild(c)
	if errno == 0 {
		stage, errno = become(c) // here, for the sake of the stack: what is nosplit has 792 bytes
	}
	report(c.talk, stage, errno)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
		crash() // the filter refuses even that
	}
}

//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func report(fd int, stage int32, errno syscall.Errno) {
	msg := [2]int32{stage, int32(errno)}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unsafe.Sizeof(msg))
}

var zero = [1]byte{'0'}

// runChild is the child's life until it may become the container's process.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func runChild(c *child) (int32, syscall.Errno) {
	// With this end open here too, the death of the parent would not end the wait for its words.
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(c.other), 0, 0)
	// Nor is the host's root for whoever may look into a process of the container's.
	for _, fd := range c.shut {
		if fd >= 0 && !weak.FDs {
			syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
		}
	}
	for i := range c.procs {
		if e := makeProc(c, &c.procs[i]); e != 0 {
			return stageProc, e
		}
	}
	if c.early {
		if e := awaitMounts(c); e != 0 {
			return stageConsole, e
		}
	}
	for _, fd := range c.cgroupTasks {
		if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&zero)), 1); e != 0 {
			return stageCgroup, e
		}
	}
	if c.cgroupNS {
		if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP, 0, 0); e != 0 {
			return stageCgroupNS, e
		}
	}
	if c.cgroupNSFD > 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.cgroupNSFD), unix.CLONE_NEWCGROUP, 0); e != 0 {
			return stageCgroupNS, e
		}
	}
	if c.cgroupInit > 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.cgroupInit), uintptr(unsafe.Pointer(&zero)), 1); e != 0 {
			return stageCgroup, e
		}
	}
	if s, e := applyAttributes(&c.attr); e != 0 { // some ask for rights in the first user namespace
		return s, e
	}
	if c.userNS > 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.userNS), unix.CLONE_NEWUSER, 0); e != 0 {
			return stageUserNS, e
		}
		closeUp()
	}
	if s, e := joinKeyring(&c.attr); e != 0 { // by a name that means something in the container's user namespace only
		return s, e
	}
	if c.setsid {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); e != 0 {
			return stageSession, e
		}
	}
	if c.console >= 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(c.console), unix.TIOCSCTTY, 0); e != 0 {
			return stageConsole, e
		}
	}
	for i := range c.rlimits {
		r := &c.rlimits[i]
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, r.resource, uintptr(unsafe.Pointer(&r.limit)), 0, 0, 0); e != 0 {
			return stageRlimit, e
		}
	}

	// Not later: whoever copies into a container goes by its process's root, which without a mount namespace is the host's until now.
	if c.root >= 0 {
		if e := enterRootRaw(c); e != 0 {
			return stageRoot, e
		}
	}

	report(c.talk, stageReady, 0)
	word := readWord(c)
	if word == wordHold {
		if s, e := letGo(c); e != 0 {
			return s, e
		}
		if e := waitAtGate(c); e != 0 {
			return stageGate, e
		}
	}
	if len(c.startHooks) > 0 {
		if e := runStartHooks(c); e != 0 {
			return stageStartHook, e
		}
	}
	return 0, 0
}

// letGo leaves a child that will wait for long with nothing of its parent's but the streams, what the process inherits, and the gate: the parent's lock is
// held by every copy of its descriptor.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func letGo(c *child) (int32, syscall.Errno) {
	if e := placeStdio(c); e != 0 {
		return stageStdio, e
	}
	for i := range c.stdio {
		c.stdio[i] = i
	}
	if c.console >= 0 {
		c.console = 0
	}
	first := uintptr(firstFD + c.preserve)
	gate, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(c.gate), unix.F_DUPFD_CLOEXEC, first+1)
	if e != 0 {
		return stageGate, e
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, gate, first, unix.O_CLOEXEC); e != 0 {
		return stageGate, e
	}
	c.gate = int(first)
	_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, first+1, ^uintptr(0)>>32, 0)
	return stageCloseFDs, e
}

// waitAtGate waits for whoever starts the container. From then on failures are reported on that connection. Who goes away without a word has been killed:
// the container ends, since nobody can come through the gate again.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func waitAtGate(c *child) syscall.Errno {
	for {
		conn, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(c.gate), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		c.talk = int(conn)
		readWord(c)
		return 0
	}
}

// readWord takes one message: its first byte, and what follows as the container's state, as far as there is room for it. The child ends with who talks to it.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func readWord(c *child) byte {
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(c.talk), uintptr(unsafe.Pointer(unsafe.SliceData(c.state))), uintptr(len(c.state)))
		if e == unix.EINTR {
			continue
		}
		if n == 0 || e != 0 {
			for {
				syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
			}
		}
		c.stateLen = n - 1
		return *unsafe.SliceData(c.state)
	}
}

//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func enterRootRaw(c *child) syscall.Errno {
	if _, _, e := syscall.RawSyscall(unix.SYS_FCHDIR, uintptr(c.root), 0, 0); e != 0 {
		return e
	}
	_, _, e := syscall.RawSyscall(unix.SYS_CHROOT, uintptr(unsafe.Pointer(&dot)), 0, 0)
	return e
}

var (
	dot       = [2]byte{'.', 0}
	procName  = [5]byte{'p', 'r', 'o', 'c', 0}
	emptyName = [1]byte{0}
)

// makeProc makes a procfs of the child's PID namespace and sends it to the parent.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func makeProc(c *child, p *childProc) syscall.Errno {
	fs, _, e := syscall.RawSyscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(&procName)), unix.FSOPEN_CLOEXEC, 0)
	if e != 0 {
		return e
	}
	for i := range p.opts {
		o := &p.opts[i]
		cmd := uintptr(unix.FSCONFIG_SET_STRING)
		if o[1] == nil {
			cmd = unix.FSCONFIG_SET_FLAG
		}
		if _, _, e = syscall.RawSyscall6(unix.SYS_FSCONFIG, fs, cmd, uintptr(unsafe.Pointer(o[0])), uintptr(unsafe.Pointer(o[1])), 0, 0); e != 0 {
			return e
		}
	}
	if _, _, e = syscall.RawSyscall6(unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0, 0); e != 0 {
		return e
	}
	fd, _, e := syscall.RawSyscall(unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, p.attr)
	if e == 0 {
		e = c.message.send(c.talk, stageProcMade, int32(fd))
		syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	syscall.RawSyscall(unix.SYS_CLOSE, fs, 0, 0)
	return e
}

// awaitMounts waits until the parent has made the mounts, and takes the terminal that it sends, if there is one.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func awaitMounts(c *child) syscall.Errno {
	fd, e := c.message.receive(c.talk)
	if e != 0 {
		return e
	}
	if fd >= 0 {
		c.console = int(fd)
		c.stdio = [3]int{c.console, c.console, c.console}
	}
	return 0
}

// placeStdio puts the standard streams where they belong, to stay open over execve.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func placeStdio(c *child) syscall.Errno {
	for i := range c.stdio {
		fd := c.stdio[i]
		if fd == i {
			if _, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFD, 0); e != 0 {
				return e
			}
		} else if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(fd), uintptr(i), 0); e != 0 {
			return e
		}
	}
	return 0
}

// enterCwd changes into the working directory.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func enterCwd(c *child) (int32, syscall.Errno) {
	if _, _, e := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.cwd)), 0, 0); e != 0 {
		return stageCwd, e
	}
	// A working directory that leads out of the root (through a leaked descriptor) has no path: the kernel says "(unreachable)…".
	if _, _, e := syscall.RawSyscall(unix.SYS_GETCWD, uintptr(unsafe.Pointer(&c.cwdBuf)), unsafe.Sizeof(c.cwdBuf), 0); (e != 0 || c.cwdBuf[0] != '/') && !weak.Cwd {
		return stageCwdOutside, max(e, 1)
	}
	return 0, 0
}

// inherit says which descriptors the process gets beside the standard streams: n that are in their places, or the given ones.
func (c *child) inherit(n int, given []int) {
	if c.preserve = n; given != nil {
		c.preserve, c.given = len(given), slices.Clone(given)
	}
}

// placeGiven puts descriptors into the places from firstFD on. None of them is overwritten before it is where it belongs.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func placeGiven(given []int) syscall.Errno {
	for i := range given {
		fd, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(given[i]), unix.F_DUPFD_CLOEXEC, uintptr(firstFD+len(given)))
		if e != 0 {
			return e
		}
		given[i] = int(fd)
	}
	for i := range given {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(given[i]), uintptr(firstFD+i), 0); e != 0 {
			return e
		}
	}
	return 0
}

// become turns the waiting child into the container's process.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func become(c *child) (int32, syscall.Errno) {
	if e := placeStdio(c); e != 0 {
		return stageStdio, e
	}
	// Nothing of the runtime's stays open, so that no path, of the working directory above all, can lead through it (CVE-2024-21626). Only the
	// report pipe must live until execve, which closes it.
	last := firstFD + c.preserve
	if c.given != nil {
		talk, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(c.talk), unix.F_DUPFD_CLOEXEC, uintptr(last))
		if e != 0 {
			return stageStdio, e
		}
		c.talk = int(talk)
		if e := placeGiven(c.given); e != 0 {
			return stageStdio, e
		}
	}
	for fd := firstFD; fd < last; fd++ {
		if _, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFD, 0); e != 0 {
			return stageStdio, e
		}
	}
	if c.talk != last {
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.talk), uintptr(last), unix.O_CLOEXEC); e != 0 {
			return stageCloseFDs, e
		}
		c.talk = last
	}
	if !weak.FDs {
		if _, _, e := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(last)+1, ^uintptr(0)>>32, 0); e != 0 {
			return stageCloseFDs, e
		}
	}
	if c.tells {
		if _, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(c.talk), unix.F_SETFD, 0); e != 0 {
			return stageCloseFDs, e
		}
		all := ^uint64(0)
		if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), 0, unsafe.Sizeof(all), 0, 0); e != 0 {
			return stageCloseFDs, e
		}
	}
	// What whoever started the engine ignores (nohup, a script's background), the container does not: kill and stop would do nothing. What cannot be set is as it has to be.
	var plain [4]uint64 // SIG_DFL
	for n := uintptr(1); n <= 64; n++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&plain)), 0, unsafe.Sizeof(plain[0]), 0, 0)
	}
	// As root first, then, where root may not, as the user: so does runc. Before the filter, which may forbid it.
	s, e := enterCwd(c)
	entered := e == 0
	if e != 0 && (e != unix.EACCES || s != stageCwd) {
		return s, e
	}
	if c.noNewPrivs {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
			return stageNoNewPrivs, e
		}
	} else if s, e := installSeccomp(c); e != 0 { // needs CAP_SYS_ADMIN, so before it is dropped
		return s, e
	}
	for _, n := range c.dropBounding {
		if _, _, e := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0); e != 0 {
			return stageBounding, e
		}
	}
	if s, e := setUser(c); e != 0 {
		return s, e
	}
	syscall.RawSyscall(unix.SYS_UMASK, c.umask, 0, 0)
	if !entered {
		if s, e := enterCwd(c); e != 0 {
			return s, e
		}
	}
	if c.noNewPrivs {
		if s, e := installSeccomp(c); e != 0 {
			return s, e
		}
	}
	// Like execvp(3): the first candidate that exists decides, but one that may not be executed is passed over while others are left.
	failed := unix.ENOENT
	for _, p := range c.paths {
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.envp[0])))
		switch e {
		case unix.ENOENT, unix.ENOTDIR:
			if _, _, gone := syscall.RawSyscall6(unix.SYS_OPENAT, ^uintptr(-unix.AT_FDCWD-1), uintptr(unsafe.Pointer(p)), unix.O_PATH|unix.O_CLOEXEC, 0, 0, 0); gone == 0 { // relative to AT_FDCWD
				failed = noInterpreter // the file is there
			}
		case unix.EACCES:
			failed = e
		default:
			return stageExec, e
		}
	}
	return stageExec, failed
}

//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func installSeccomp(c *child) (int32, syscall.Errno) {
	if c.seccomp == nil || weak.Seccomp {
		return 0, 0
	}
	fd, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, c.seccompFlags, uintptr(unsafe.Pointer(c.seccomp)))
	if e != 0 {
		return stageSeccomp, e
	}
	if c.listener != nil {
		handListener(c, fd)
	}
	return 0, 0
}

// closeUp keeps everybody in the container from looking into this process until it executes: through /proc/PID/mem, exe, fd, root and cwd, with ptrace(2) and
// process_vm_readv(2). The child is born so, but new credentials set what sysctl fs.suid_dumpable says (proc_sys_fs(5)).
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func closeUp() {
	if !weak.Dumpable {
		syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0)
	}
}

//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func setUser(c *child) (int32, syscall.Errno) {
	if c.caps.set {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0, 0); e != 0 {
			return stageCaps, e
		}
	}
	var groups unsafe.Pointer
	if len(c.groups) > 0 {
		groups = unsafe.Pointer(&c.groups[0])
	}
	if !c.keepGroups {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.groups)), uintptr(groups), 0); e != 0 {
			return stageGroups, e
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, c.gid, c.gid, c.gid); e != 0 {
		return stageGID, e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, c.uid, c.uid, c.uid); e != 0 {
		return stageUID, e
	}
	closeUp()
	if !c.caps.set {
		return 0, 0
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.caps.data.Header)), uintptr(unsafe.Pointer(&c.caps.data.Sets[0])), 0); e != 0 {
		return stageCaps, e
	}
	for _, n := range c.ambient {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0, 0); e != 0 {
			return stageAmbient, e
		}
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0, 0, 0, 0, 0)
	return 0, 0
}
