package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/base/weak"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/lsm"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/proc"
	"brig/internal/kernel/resctrl"
)

// Request is what a container is made of.
type Request struct {
	ID     string
	Spec   *specs.Spec
	Bundle string // folder of config.json; relative bind sources start there

	Root       []api.Mount // what to mount as the root; none: the folder RootPath
	RootPath   string
	MountPoint string // an existing folder that the root is mounted on, in the container's mount namespace only

	NetNS        int    // descriptor of the network namespace to join instead of what the spec says; -1: as the spec says
	Stdio        [3]int // descriptors for the process without a terminal; all must be 3 or more, or 0, 1, 2 in their places
	Gate         int    // socket of OpenGate, for a process that is held; -1: it is started by Process.Start
	NoNewKeyring bool   // keep the caller's session keyring
	NoPivot      bool   // see builder.move: weaker, for a root in the initial ramfs, which pivot_root(2) refuses

	Preserve int   // how many descriptors after the standard streams the process inherits; they must be open
	Given    []int // the descriptors that it gets there; nil: those that the caller has there. With Gate -1 only

	Here     bool // build on the calling thread and come back: a new thread costs more. Else on a thread of its own
	LookUp   bool // fail if the command is not there, or cannot be executed, instead of at its start
	Systemd  bool // let systemd make the cgroup
	NoCgroup bool // go without one
	Rootless bool // go without a cgroup where the caller may make none and none was asked for

	staged *staging // in a stage: what its maker gave it
}

// Container is a container that has been created: its process waits for Start.
type Container struct {
	*Process
	Cgroup *cgroup.Group  // nil: it has none
	Unit   string         // of systemd, which Cgroup belongs to; "": none
	RDT    *resctrl.Group // nil: none
	Mount  string         // folder of the host's that its root is mounted on, which Unmount takes away; "": its mounts are its own

	place *place
}

// Unmount takes the root of a container without a mount namespace away from the host's mounts, with all that is mounted in it.
func Unmount(path string) error {
	// A volume that is shared with the host would take the host's mounts below it along.
	if fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
		err = mount.SetAttr(fd, true, 0, 0, unix.MS_PRIVATE)
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EINVAL) { // that it is no mount
			return &os.PathError{Op: "make private", Path: path, Err: err}
		}
	}
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT { // else it is no mount any more
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return nil
}

// Abandon ends the process, which must not have been started, and removes what was made for it.
func (c *Container) Abandon() {
	c.Process.Abandon()
	if c.Mount != "" {
		_ = Unmount(c.Mount)
	}
	c.place.remove()
}

// Create builds the container and forks its process, which waits. On error nothing of it is left.
func Create(req *Request) (*Container, error) {
	if err := Validate(req.Spec); err != nil {
		return nil, err
	}
	if l := req.Spec.Linux; l.MountLabel != "" && (lsm.Host{}).SELinux() != nil {
		l.MountLabel = "" // nothing could read it; Warnings tells
	}
	var links netDevices
	defer links.close()
	p, where, err := create(req, &links)
	if err == nil {
		if err = where.settle(p.Pid); err != nil {
			p.Abandon()
		}
	}
	if err != nil {
		links.giveBack()
		if where != nil {
			where.remove()
		}
		return nil, err
	}
	c := &Container{Process: p, Cgroup: where.group, RDT: where.rdt, Mount: p.mount, place: where}
	if where.scope != nil {
		c.Unit = where.scope.Unit
	}
	return c, nil
}

func create(req *Request, links *netDevices) (*Process, *place, error) {
	place := beginPlace(req)
	if usesUserNS(req.Spec) != nil {
		where, err := place()
		if err != nil {
			return nil, nil, err
		}
		p, err := createStaged(req, where.inside(), links)
		return p, where, err
	}
	there := onThread
	if req.Here && !hasNamespace(req.Spec, specs.TimeNamespace) { // a thread of many cannot come back from a time namespace: setns(2), EUSERS
		there = thereAndBack
		runtime.LockOSThread() // after place has begun: for a goroutine of a locked thread the scheduler may have to make one first
		defer runtime.UnlockOSThread()
	}
	var p *Process
	err := there(func() (err error) {
		p, err = build(req, func() (*cgroup.Group, error) {
			where, err := place()
			if err != nil {
				return nil, err
			}
			return where.inside(), nil
		}, links)
		return err
	})
	if err == nil {
		err = p.Ready()
	}
	if err != nil && p != nil {
		p.Abandon()
	}
	where, _ := place() // its error is err
	return p, where, err
}

// CgroupPath is the path of the container's cgroup in each hierarchy.
func (req *Request) CgroupPath() string {
	if p := req.Spec.Linux.CgroupsPath; p != "" {
		return p
	}
	return "/" + req.ID
}

// build makes everything of the container on this thread and forks; group waits for its cgroup. links is nil in a stage, whose maker sees to them.
func build(req *Request, group func() (*cgroup.Group, error), links *netDevices) (*Process, error) {
	s := req.Spec
	mounts, err := enterNamespaces(req)
	if err != nil {
		return nil, err
	}
	if links != nil {
		if err := links.take(s.Linux.NetDevices, "/proc/"+strconv.Itoa(unix.Getpid())+"/task/"+strconv.Itoa(unix.Gettid())+"/ns/net"); err != nil {
			return nil, err
		}
	}
	b := &builder{spec: s, req: req, host: -1, root: -1, null: -1, dev: -1, devpts: -1, proc: -1, mask: -1, ownMounts: mounts}
	defer b.close()
	defer unix.Umask(unix.Umask(0)) // this thread's own since unshare, where that is allowed
	if req.staged != nil {
		if err := req.staged.takeLocked(s); err != nil {
			return nil, err
		}
	}
	if err := b.mountRoot(); err != nil {
		b.unmountHost()
		return nil, err
	}
	if err := b.addUser(); err != nil {
		b.unmountHost()
		return nil, err
	}
	// The child is born before the mounts: it makes the procfs, which has to come among them in their order.
	p, err := b.launch(group)
	if err != nil {
		b.unmountHost()
		return nil, err
	}
	if err = b.surround(p); err == nil {
		err = p.keepState(s, req.ID, req.Bundle)
	}
	if err != nil {
		p.Abandon()
		b.unmountHost()
		return nil, err
	}
	return p, nil
}

// launch prepares the process and forks it.
func (b *builder) launch(group func() (*cgroup.Group, error)) (*Process, error) {
	c, err := b.child()
	if err != nil {
		return nil, err
	}
	b.uid, b.gid = int(c.uid), int(c.gid)
	attr, err := containerAttributes(b.req)
	if err != nil {
		return nil, err
	}
	c.give(attr)
	held := c.attr // c itself stays as it is: the child may share it
	defer held.close()
	if b.group, err = group(); err != nil {
		return nil, err
	}
	return b.fork(c)
}

// surround makes everything around the child, tells it, and makes the root its root.
func (b *builder) surround(p *Process) (err error) {
	if b.procs, err = p.procs(b.countProcs()); err != nil {
		return err
	}
	if err := b.mounts(); err != nil {
		return err
	}
	if err := b.names(); err != nil {
		return err
	}
	var slave *os.File
	if b.spec.Process.Terminal {
		if p.Console, slave, err = b.openConsole(); err != nil {
			return err
		}
		defer slave.Close()
		if err := unix.Fchown(int(slave.Fd()), b.uid, -1); err != nil && err != unix.EROFS {
			return fmt.Errorf("pseudo-terminal: owner: %w", err)
		}
	}
	if err := b.workingDir(); err != nil {
		return err
	}
	if err := b.createHooks(p.Pid); err != nil {
		return err
	}
	if b.req.LookUp {
		if err := b.lookUp(); err != nil {
			return err
		}
	}
	if value, ok := b.spec.Annotations[AnnotationLookUp]; ok {
		if err := b.lookUpBelow(value); err != nil {
			return err
		}
	}
	if err := b.cover(); err != nil {
		return err
	}
	if err := b.show(); err != nil {
		return err
	}
	if err := b.pivot(); err != nil {
		return err
	}
	if b.onTheHost {
		p.mount = b.place
	}
	return p.mounted(slave)
}

// fork forks the child, which joins the cgroup.
func (b *builder) fork(c *child) (*Process, error) {
	name := b.spec.Process.Args[0]
	if staged := b.req.staged; staged != nil {
		c.cgroupTasks, c.sibling = staged.tasks, true
		if n := len(staged.tasks) - 1; Entrusted(b.spec.Annotations) {
			c.cgroupTasks, c.cgroupInit = staged.tasks[:n], staged.tasks[n]
		}
		return launch(c, -1, name)
	}
	if b.group == nil {
		return launch(c, -1, name)
	}
	tasks, unified, err := b.group.JoinFiles()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range append(tasks, unified) {
			if f != nil {
				f.Close()
			}
		}
	}()
	if Entrusted(b.spec.Annotations) {
		f, err := b.group.InitFile()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		c.cgroupInit = int(f.Fd())
	}
	return launch(c, c.join(tasks, unified), name)
}

// child prepares what the process will be.
func (b *builder) child() (*child, error) {
	s := b.spec
	filter, err := FilterOf(s.Annotations, s.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	c, err := prepare(s.Process, s.Annotations[AnnotationUser], filter, b.root, b.req.Stdio)
	if err != nil {
		return nil, err
	}
	c.early, c.shares = true, b.req.staged == nil && mayShare(s)
	c.tells = s.Annotations[AnnotationTells] != ""
	if setgroupsDenied("/proc/thread-self/setgroups") {
		if err := c.leaveGroups(); err != nil {
			return nil, err
		}
	}
	c.cgroupNS = hasNamespace(s, specs.CgroupNamespace)
	for i := range s.Linux.Namespaces {
		if n := &s.Linux.Namespaces[i]; n.Type == specs.CgroupNamespace && n.Path != "" {
			if c.cgroupNSFD, err = openNamespace(b.req, i); err != nil {
				return nil, err
			}
			b.held = append(b.held, c.cgroupNSFD)
		}
	}
	c.root, c.gate = b.root, b.req.Gate
	c.inherit(b.req.Preserve, b.req.Given)
	c.shut[0] = b.host
	if b.req.staged != nil {
		c.shut[1] = b.req.staged.control
		c.rlimits = nil // set from outside, where they can be raised
	}
	if s.Hooks != nil {
		if err := c.prepareStartHooks(s.Hooks.StartContainer); err != nil {
			return nil, err
		}
	}
	if len(c.startHooks) > 0 {
		c.state = make([]byte, 1+maxState)
	}
	for i := range s.Mounts {
		if m := &s.Mounts[i]; isProc(m) {
			if err := c.proc(parseOptions(m)); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// createHooks runs the hooks of creation: those of the runtime's namespaces on a thread that is still there, those of the container's here, before the root
// is changed, so that their paths are the host's: config.md, "createContainer Hooks".
func (b *builder) createHooks(pid int) error {
	if b.req.staged != nil {
		if err := b.req.staged.announce(pid); err != nil {
			return err
		}
	}
	h := b.spec.Hooks
	if h == nil {
		return nil
	}
	state, err := StateJSON(b.spec, b.req.ID, b.req.Bundle, specs.StateCreating, pid)
	if err != nil {
		return err
	}
	//nolint:staticcheck // Prestart is deprecated, and still written by engines.
	if len(h.Prestart)+len(h.CreateRuntime) > 0 && b.req.staged == nil {
		done := make(chan error)
		go func() { // this goroutine's thread has left the host, another one has not
			err := RunHooks("prestart", h.Prestart, state)
			if err == nil {
				err = RunHooks("createRuntime", h.CreateRuntime, state)
			}
			done <- err
		}()
		if err := <-done; err != nil {
			return err
		}
	}
	return RunHooks("createContainer", h.CreateContainer, state)
}

// proc has the child make a procfs.
func (c *child) proc(opts mountOptions) error {
	p := childProc{attr: uintptr(opts.set)}
	for _, o := range append([]string{"source=proc"}, fsOptions("", &opts)...) {
		key, value, ok := strings.Cut(o, "=")
		k, err := syscall.BytePtrFromString(key)
		if err != nil {
			return err
		}
		var v *byte
		if ok {
			if v, err = syscall.BytePtrFromString(value); err != nil {
				return err
			}
		}
		p.opts = append(p.opts, [2]*byte{k, v})
	}
	c.procs = append(c.procs, p)
	return nil
}

// terminal makes the slave end of a pseudo-terminal the process's standard streams and controlling terminal.
func (c *child) terminal(slave *os.File) {
	c.console = int(slave.Fd())
	c.stdio = [3]int{c.console, c.console, c.console}
}

// join has the child enter the cgroups and returns the version 2 one to be born in, or -1.
func (c *child) join(tasks []*os.File, unified *os.File) int {
	for _, f := range tasks {
		c.cgroupTasks = append(c.cgroupTasks, int(f.Fd()))
	}
	if unified == nil {
		return -1
	}
	return int(unified.Fd())
}

// names sets the host and domain name.
func (b *builder) names() error {
	if h := b.spec.Hostname; h != "" {
		if err := unix.Sethostname([]byte(h)); err != nil {
			return api.Errorf(api.InvalidArgument, "hostname %q: %w", h, err)
		}
	}
	if d := b.spec.Domainname; d != "" {
		if err := unix.Setdomainname([]byte(d)); err != nil {
			return api.Errorf(api.InvalidArgument, "domain name %q: %w", d, err)
		}
	}
	return nil
}

// sysctls writes through the container's own, freshly made procfs, never through a path.
func (b *builder) sysctls() error {
	for k, v := range b.spec.Linux.Sysctl {
		if b.proc < 0 {
			return api.Errorf(api.InvalidArgument, "sysctl %s: the container mounts no /proc to set it through", k)
		}
		name := "sys/" + strings.ReplaceAll(k, ".", "/")
		how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
		if weak.Crossing {
			how.Resolve = unix.RESOLVE_BENEATH
		}
		fd, err := unix.Openat2(b.proc, name, &how)
		if err != nil {
			return api.Errorf(api.InvalidArgument, "sysctl %s: %w", k, err)
		}
		_, err = unix.Write(fd, []byte(v))
		unix.Close(fd)
		if err != nil {
			return api.Errorf(api.InvalidArgument, "sysctl %s=%s: %w", k, v, err)
		}
	}
	return nil
}

// workingDir makes process.cwd where the image has none, as docker does.
func (b *builder) workingDir() error {
	cwd := path.Clean(b.spec.Process.Cwd)
	if cwd == "/" {
		return nil
	}
	fd, err := mount.MkdirAllInRoot(b.root, cwd, 0o755)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.ELOOP) {
		return nil // the child's chdir tells
	}
	if err != nil {
		return api.Errorf(api.InvalidArgument, "working directory: %w", err)
	}
	return unix.Close(fd)
}

// StateJSON is the state of a container as runtime.md ("State") has it, which hooks get and `state` prints. pid 0 is left out.
func StateJSON(s *specs.Spec, id, bundle string, status specs.ContainerState, pid int) ([]byte, error) {
	return record.Marshal(specs.State{Version: s.Version, ID: id, Status: status, Pid: pid, Bundle: bundle, Annotations: s.Annotations})
}

// setOOMScoreAdj writes the badness adjustment of a stage's child from outside: proc_pid_oom_score_adj(5).
func setOOMScoreAdj(pid, adj int) error {
	procfs, err := proc.Open()
	if err != nil {
		return err
	}
	defer unix.Close(procfs)
	err = proc.Write(procfs, strconv.Itoa(pid)+"/oom_score_adj", strconv.Itoa(adj))
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if told := attrFailure(stageOOM, errno); told != nil {
			return told
		}
	}
	return err
}
