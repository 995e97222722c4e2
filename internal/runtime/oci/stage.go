package oci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/users"
)

// A container with a user namespace is built from inside of it: a process with several threads, as a Go program is, cannot enter one (setns(2)), so the
// runtime forks, the child enters, and executes the runtime anew: the stage. What the stage may not do any more its maker, the outer process, does for
// it: it makes the cgroup, opens what the stage cannot reach, runs the hooks of the runtime's namespaces and raises limits. The container's process
// is the outer one's child (CLONE_PARENT), as if there were no stage.

// StageVerb is the word by which brig-oci knows that it is a stage: brig-oci stage DESCRIPTOR.
const StageVerb = "stage"

// order is what the outer process asks of a stage. Descriptors are sent along, in the order of the fields that count them.
type order struct {
	ID, Bundle, RootPath, MountPoint string
	Root                             []api.Mount
	Spec                             *specs.Spec
	Preserve                         int
	NoPivot, NoNewKeyring, LookUp    bool
	Cgroup                           string // path in each hierarchy, "" without one

	Gate       bool
	RootFD     bool
	Tasks      int   // files of cgroups to join by writing "0"; the last is the first process's own, where the container rules its cgroup
	Namespaces []int // which of linux.namespaces have a descriptor
	NetNS      bool
	Sources    []int // which of mounts have their source as a detached mount
	Locked     []int // and which have it in the working directory too, by their index, with flags that the kernel will lock
}

// Kinds of messages between the two.
const (
	msgMoreFDs = 'f' // descriptors that had no room in the order
	msgOrder   = 'o' // descriptors: the order itself in a memory file, then the rest
	msgHooks   = 'h' // the process exists: its number; the outer process answers msgGoOn or closes
	msgGoOn    = 'g'
	msgReady   = 'r' // the process waits: its number; descriptors: pidfd, talk, and the terminal if it has one
	msgError   = 'e' // kind, NUL, words
)

// maxFDs is how many descriptors one message carries: SCM_MAX_FD of the kernel is 253.
const maxFDs = 250

// usesUserNS returns the container's user namespace, or nil.
func usesUserNS(s *specs.Spec) *specs.LinuxNamespace {
	for i := range s.Linux.Namespaces {
		if n := &s.Linux.Namespaces[i]; n.Type == specs.UserNamespace {
			return n
		}
	}
	return nil
}

// createStaged is Create for a container with a user namespace. group is nil where the caller may make none.
func createStaged(req *Request, group *cgroup.Group, links *netDevices) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[0])
	o := &order{
		ID: req.ID, Bundle: req.Bundle, RootPath: req.RootPath, MountPoint: req.MountPoint, Root: req.Root, Spec: req.Spec,
		Preserve: max(req.Preserve, len(req.Given)), NoNewKeyring: req.NoNewKeyring, NoPivot: req.NoPivot, LookUp: req.LookUp,
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			if fd != req.Gate && fd != req.NetNS {
				unix.Close(fd)
			}
		}
	}()
	join, locked, err := o.collect(req, group, &fds)
	var pid int
	if err == nil {
		err = o.withLocked(req, locked, func() (err error) {
			pid, err = enterStage(req, pair[1], join)
			return err
		})
	}
	unix.Close(pair[1])
	if err != nil {
		return nil, err
	}
	p, err := o.build(req, pair[0], fds, links)
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
	}
	reapStage(pid)
	return p, err
}

// collect opens what the stage shall have, in the order of order's fields, and returns the namespaces to join from outside, and what withLocked takes.
func (o *order) collect(req *Request, group *cgroup.Group, fds *[]int) (join []int, locked []lockedSource, err error) {
	add := func(fd int) { *fds = append(*fds, fd) }
	if req.Gate >= 0 {
		o.Gate = true
		add(req.Gate)
	}
	root := -1
	if fd, err := cloneRoot(req); err == nil {
		o.RootFD, root = true, fd
		add(fd)
	} else if !errors.Is(err, unix.EPERM) {
		return nil, nil, fmt.Errorf("root file system: %w", err)
	}
	if group != nil {
		o.Cgroup = group.Path()
		if o.Tasks, err = openTasks(group, add); err != nil {
			return nil, nil, err
		}
		if Entrusted(req.Spec.Annotations) {
			f, err := openInit(group)
			if err != nil {
				return nil, nil, err
			}
			add(f)
			o.Tasks++
		}
	}
	for i, n := range req.Spec.Linux.Namespaces {
		if n.Path == "" || n.Type == specs.UserNamespace {
			continue
		}
		fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, nil, api.Errorf(api.InvalidArgument, "config.json: linux.namespaces[%d]: %w", i, &os.PathError{Op: "open", Path: n.Path, Err: err})
		}
		o.Namespaces = append(o.Namespaces, i)
		if n.Type != specs.PIDNamespace { // a process whose children shall be elsewhere gets no threads, and the stage needs them: clone(2), EINVAL
			join = append(join, fd)
		}
		add(fd)
	}
	if req.NetNS >= 0 {
		o.NetNS = true
		join = append(join, req.NetNS)
		add(req.NetNS)
	}
	b := &builder{req: req, spec: req.Spec, root: root}
	if hasOwnerMap(req.Spec) {
		if err := b.processUser(); err != nil {
			return nil, nil, err
		}
	}
	locks := locksMounts(req.Spec)
	for i := range req.Spec.Mounts {
		fd, err := b.outerSource(&req.Spec.Mounts[i])
		if err != nil {
			closeLocked(locked)
			return nil, nil, fmt.Errorf("mount %s: %w", req.Spec.Mounts[i].Destination, err)
		}
		if fd < 0 {
			continue
		}
		o.Sources = append(o.Sources, i)
		add(fd)
		if locks && b.isLocked(&req.Spec.Mounts[i]) {
			if fd, err = b.outerSource(&req.Spec.Mounts[i]); err == nil && fd < 0 {
				err = unix.EPERM
			}
			if err != nil {
				closeLocked(locked)
				return nil, nil, fmt.Errorf("mount %s: %w", req.Spec.Mounts[i].Destination, err)
			}
			locked = append(locked, lockedSource{i, fd})
		}
	}
	return join, locked, nil
}

// openTasks opens the files by which the process joins the group: the kernel asks for the rights of who opened them (since Linux 5.16), not of who writes.
func openTasks(group *cgroup.Group, add func(int)) (n int, err error) {
	seen := map[string]bool{}
	for controller, dir := range group.Paths() {
		file := dir + "/tasks"
		if controller == "" { // version 2
			file = dir + "/cgroup.procs"
		}
		if seen[file] {
			continue
		}
		seen[file] = true
		fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return n, &os.PathError{Op: "open", Path: file, Err: err}
		}
		add(fd)
		n++
	}
	return n, nil
}

func openInit(group *cgroup.Group) (int, error) {
	f, err := group.InitFile()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, firstFD)
	return fd, os.NewSyscallError("fcntl", err)
}

// cloneRoot makes a detached copy of the root's mount, which can be attached in a namespace whose root user could not reach the folder.
func cloneRoot(req *Request) (int, error) {
	if len(req.Root) == 0 {
		return mount.Clone(unix.AT_FDCWD, req.RootPath, true)
	}
	b := &builder{req: req, spec: req.Spec}
	if len(req.Root) == 1 && slices.Contains(req.Root[0].Options, OptionIDMapRoot) {
		return b.mappedRoot(&req.Root[0])
	}
	if len(req.Root) == 1 && !slices.ContainsFunc(req.Root[0].Options, tooLong) {
		return b.newRoot(&req.Root[0])
	}
	if len(req.Root) == 1 {
		return b.rootAside(&req.Root[0])
	}
	return -1, unix.EPERM // the stage tries
}

// rootAside makes a root with options that only mount(2) takes: in a mount namespace that ends with its thread.
func (b *builder) rootAside(m *api.Mount) (fd int, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("mount propagation of /: %w", err)
		}
		at, err := b.newRoot(m)
		if err != nil {
			return err
		}
		defer unix.Close(at)
		fd, err = mount.Clone(at, "", false)
		return err
	})
	return fd, err
}

// outerSource opens the source of a bind mount as the caller sees it; -1: m is none, or the caller may not, and the stage tries.
func (b *builder) outerSource(m *specs.Mount) (int, error) {
	opts := parseOptions(m)
	if !opts.bind || opts.remount {
		return -1, nil
	}
	fd, err := b.cloneSource(m, &opts)
	if errors.Is(err, unix.EPERM) && !opts.idmap {
		return -1, nil
	}
	if err != nil || !opts.idmap {
		return fd, err
	}
	if err := b.idmap(fd, m, &opts); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ownerOf opens the user namespace that a network namespace belongs to; -1: it is this process's own.
func ownerOf(netNS int) (int, error) {
	fd, err := userns.OwnerOf(netNS)
	if err != nil {
		return -1, err
	}
	if isHere(fd, specs.UserNamespace) {
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// processUser finds who the process will be, before there is a child that knows.
func (b *builder) processUser() error {
	p, who := b.spec.Process, b.spec.Annotations[AnnotationUser]
	b.uid, b.gid = int(p.User.UID), int(p.User.GID)
	if who == "" {
		return nil
	}
	if b.root < 0 {
		return api.Errorf(api.Unsupported, "option %s: the user %q cannot be looked up before the root is mounted", OptionOwner, who)
	}
	u, err := users.Find(b.root, who)
	if err == nil {
		b.uid, b.gid = u.Uid, u.Gid
	}
	return err
}

// enterStage forks the child and sees it into its user namespace; it returns when the child has executed the runtime, or could not.
func enterStage(req *Request, control int, join []int) (pid int, err error) {
	ns := usesUserNS(req.Spec)
	userNS := -1
	if ns.Path != "" {
		if userNS, err = unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return 0, api.Errorf(api.InvalidArgument, "config.json: linux.namespaces: user: %w", &os.PathError{Op: "open", Path: ns.Path, Err: err})
		}
		defer unix.Close(userNS)
	} else if req.NetNS >= 0 { // a network that belongs to a user namespace says which
		if userNS, err = ownerOf(req.NetNS); err != nil {
			return 0, err
		}
		if userNS >= 0 {
			defer unix.Close(userNS)
		}
	}
	preserve := req.Preserve
	if req.Given != nil {
		preserve = len(req.Given)
	}
	argv := []string{"brig-oci", StageVerb, strconv.Itoa(firstFD + preserve)}
	return inUserNS(argv, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, req.Spec, req.Gate >= 0, func(c *stageChild) {
		c.userNS, c.join, c.control, c.preserve, c.given, c.stdio = userNS, join, control, preserve, slices.Clone(req.Given), req.Stdio
	})
}

// Enter executes this program anew, with the same streams and inherited descriptors, as root of the user namespace userNS, which belongs to the caller: for
// an exec by a user without root's rights, who could not join the container's other namespaces from outside. The process is the caller's child.
func Enter(userNS, preserve int, argv, env []string) (*Process, error) {
	pid, err := inUserNS(argv, env, nil, false, func(c *stageChild) {
		c.userNS, c.preserve, c.stdio = userNS, preserve, [3]int{0, 1, 2}
	})
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		reapStage(pid)
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &Process{Pid: pid, PidFD: pidfd, talk: -1, name: argv[0]}, nil
}

// inUserNS forks, enters the user namespace, with the mappings of s if it is a new one, and executes this program there.
func inUserNS(argv, env []string, s *specs.Spec, held bool, set func(*stageChild)) (pid int, err error) {
	exe, err := stageProgram(s, held)
	if err != nil {
		return 0, err
	}
	defer unix.Close(exe)
	c, err := newStageChild(exe, argv, env)
	if err != nil {
		return 0, err
	}
	set(c)
	sync, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(sync[0])
	c.sync = [2]int32{int32(sync[0]), int32(sync[1])}
	args := cloneArgs{exitSignal: uint64(unix.SIGCHLD)}
	syscall.ForkLock.Lock()
	n, errno := forkStage(&args, c)
	syscall.ForkLock.Unlock()
	unix.Close(sync[1])
	if errno != 0 {
		return 0, fmt.Errorf("user namespace: clone: %w", errno)
	}
	pid = int(n)
	if err = mapStage(sync[0], pid, s, c.userNS < 0); err != nil {
		unix.Kill(pid, unix.SIGKILL)
		reapStage(pid)
		return 0, err
	}
	return pid, nil
}

func mapStage(sync, pid int, s *specs.Spec, fresh bool) error {
	if err := stageWord(sync, stageUnshared, fresh); err != nil {
		return err
	}
	if fresh {
		if err := userns.Map(pid, s.Linux.UIDMappings, s.Linux.GIDMappings); err != nil {
			return err
		}
	}
	if _, err := unix.Write(sync, []byte{stageMapped}); err != nil {
		return os.NewSyscallError("write", err)
	}
	return stageWord(sync, 0, fresh)
}

// stageWord waits for one byte of the child; 0: for the end of the connection, when it has executed.
func stageWord(sync int, want byte, fresh bool) error {
	var b [2]byte
	for {
		n, err := unix.Read(sync, b[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0 && want == 0, n > 0 && b[0] == want:
			return nil
		case n == 0:
			return fmt.Errorf("user namespace: the process that enters it was killed")
		}
		errno := syscall.Errno(b[1])
		switch {
		case want == 0 && errno == unix.EACCES:
			return api.Errorf(api.Unsupported, "user namespace: its root user may not execute brig-oci: the program must be executable for all users")
		case want == 0 && errno == unix.EINVAL:
			return api.Errorf(api.InvalidArgument, "config.json: linux.uidMappings and linux.gidMappings: 0 is not mapped: the container would have no root user")
		case fresh && (errno == unix.EPERM || errno == unix.ENOSPC || errno == unix.EUSERS):
			return api.Errorf(api.Unsupported, "user namespace: %w: the host forbids it (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone or an AppArmor rule)", errno)
		}
		return fmt.Errorf("user namespace: %w", errno)
	}
}

func reapStage(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// build sends the order and serves the stage until the process is ready.
func (o *order) build(req *Request, control int, fds []int, links *netDevices) (*Process, error) {
	data, err := record.Marshal(o)
	if err != nil {
		return nil, err
	}
	file, err := memFile("order", data)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all := append([]int{int(file.Fd())}, fds...)
	for len(all) > maxFDs {
		if err := sendFDs(control, []byte{msgMoreFDs}, all[:maxFDs]); err != nil {
			return nil, err
		}
		all = all[maxFDs:]
	}
	if err := sendFDs(control, []byte{msgOrder}, all); err != nil {
		return nil, err
	}
	for {
		msg, got, err := receiveFDs(control)
		if err != nil {
			return nil, err
		}
		ready := len(msg) == 9 && msg[0] == msgReady && (len(got) == 2 || len(got) == 3)
		if !ready { // nothing else brings any
			for _, fd := range got {
				unix.Close(fd)
			}
		}
		if len(msg) == 0 {
			return nil, fmt.Errorf("the process that builds the container in its user namespace was killed")
		}
		switch {
		case msg[0] == msgHooks && len(msg) == 9:
			pid := int(binary.LittleEndian.Uint64(msg[1:]))
			if err := o.onProcess(pid, links); err != nil {
				return nil, err
			}
			if err := sendFDs(control, []byte{msgGoOn}, nil); err != nil {
				return nil, err
			}
		case ready:
			p := &Process{Pid: int(binary.LittleEndian.Uint64(msg[1:])), PidFD: got[0], talk: got[1], name: req.Spec.Process.Args[0]}
			if s := req.Spec.Linux.Seccomp; s != nil {
				p.listener = newListener(s, agentState(req))
			}
			if len(got) == 3 {
				p.Console = os.NewFile(uintptr(got[2]), "ptmx")
			}
			if err := p.keepState(req.Spec, req.ID, req.Bundle); err != nil {
				p.Abandon()
				return nil, err
			}
			return p, nil
		case msg[0] == msgError:
			kind, words, _ := strings.Cut(string(msg[1:]), "\x00")
			if kind == "" {
				return nil, errors.New(words)
			}
			return nil, &api.Error{Kind: api.Kind(kind), Msg: words}
		default:
			return nil, fmt.Errorf("unknown word from the process that builds the container")
		}
	}
}

// onProcess does for the new process what needs rights outside of the user namespace.
func (o *order) onProcess(pid int, links *netDevices) error {
	for i := range o.Spec.Process.Rlimits {
		r := &o.Spec.Process.Rlimits[i]
		n, _ := rlimitNumber(r.Type) // validated
		limit := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		if _, _, e := unix.RawSyscall6(unix.SYS_PRLIMIT64, uintptr(pid), n, uintptr(unsafe.Pointer(&limit)), 0, 0, 0); e != 0 {
			return api.Errorf(api.Unsupported, "process.rlimits[%d]: %s: %w: raising a limit needs CAP_SYS_RESOURCE", i, r.Type, e)
		}
	}
	if adj := o.Spec.Process.OOMScoreAdj; adj != nil {
		if err := setOOMScoreAdj(pid, *adj); err != nil {
			return err
		}
	}
	if err := links.take(o.Spec.Linux.NetDevices, "/proc/"+strconv.Itoa(pid)+"/ns/net"); err != nil {
		return err
	}
	h := o.Spec.Hooks
	if h == nil {
		return nil
	}
	state, err := StateJSON(o.Spec, o.ID, o.Bundle, specs.StateCreating, pid)
	if err != nil {
		return err
	}
	if err := RunHooks("prestart", h.Prestart, state); err != nil { //nolint:staticcheck // deprecated, and still written by engines
		return err
	}
	return RunHooks("createRuntime", h.CreateRuntime, state)
}

func sendFDs(socket int, msg []byte, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(socket, msg, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		return os.NewSyscallError("sendmsg", err)
	}
}

// receiveFDs takes one message and the descriptors in it, close-on-exec; an empty one is the end.
func receiveFDs(socket int) (msg []byte, fds []int, err error) {
	return receive(socket, make([]byte, 16<<10), make([]byte, unix.CmsgSpace(maxFDs*4)))
}

func receive(socket int, buf, oob []byte) (msg []byte, fds []int, err error) {
	var n, m int
	for {
		n, m, _, _, err = unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.ECONNRESET {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, os.NewSyscallError("recvmsg", err)
	}
	list, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil {
		return nil, nil, os.NewSyscallError("recvmsg", err)
	}
	for i := range list {
		got, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			return nil, nil, os.NewSyscallError("recvmsg", err)
		}
		fds = append(fds, got...)
	}
	return buf[:n], fds, nil
}
