package engine

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/delegated"
	"brig/internal/kernel/userns"
)

// Enter executes this very command line anew as root of the user's namespace, waits for it and returns its exit code: for who is not root. A process
// of several threads, as every Go program is, cannot enter a user namespace itself: setns(2).
//
// All processes of a user's Brig are in one user namespace. It lives as long as one of them does; a command that finds none makes a new one with
// the same mappings. doc/adr/0005-rootless.md says why.
func Enter(root, state string) (int, error) {
	root, state = absolute(root), absolute(state)
	if err := ownFolder(state); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // the child ends with this thread
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	pid, err := enter(root, state)
	if err != nil {
		return 0, err
	}
	go forward(pid, signals)
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if status.Signaled() {
		signal.Reset(status.Signal())
		unix.Kill(os.Getpid(), status.Signal())
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// enter starts the command and returns its PID.
func enter(root, state string) (int, error) {
	members, err := userns.OpenMembers(userns.MembersPath(state))
	if err != nil {
		return 0, api.Errorf(api.KindOf(err), "state folder: %w", err)
	}
	defer members.Close()
	uid := os.Geteuid()
	ns, ok := members.Namespace()
	if !ok {
		uids, gids, _ := userns.Own(uid, os.Getegid())
		if ns, err = userns.New(uids, gids); err != nil {
			return 0, err
		}
	}
	defer unix.Close(ns)
	return members.Start(ns, &userns.Command{
		Path: "/proc/self/exe", Args: os.Args,
		Env: func(member int) []string {
			env := make([]string, 0, len(os.Environ())+3)
			for _, v := range os.Environ() {
				if name, _, _ := strings.Cut(v, "="); name != "BRIG_ROOT" && name != "BRIG_STATE" && name != rootless.Env {
					env = append(env, v)
				}
			}
			return append(env, "BRIG_ROOT="+root, "BRIG_STATE="+state, rootless.Variable(uid, member))
		},
	})
}

// forwarded are the signals that somebody may send who means the command. What is ignored stays so, for the command too.
func forwarded() (list []os.Signal) {
	for s := unix.SIGHUP; s < unix.SIGSYS; s++ {
		switch s {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGCONT,
			unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGPROF:
			continue
		}
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}

// forward hands on what this process is told. What the keys of a terminal send goes to all in its foreground, the command too, which is not told twice.
func forward(pid int, signals <-chan os.Signal) {
	for s := range signals {
		if (s == unix.SIGINT || s == unix.SIGQUIT || s == unix.SIGHUP) && inForeground() {
			continue
		}
		unix.Kill(pid, s.(syscall.Signal)) //nolint:errcheck // it has ended
	}
}

// inForeground reports whether this process's terminal, if it has one, sends it what its keys mean.
func inForeground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// subtree is where a normal user's containers, or a nested Brig's, have their control groups.
func (e *Engine) subtree() (*delegated.Subtree, error) {
	uid, _ := rootless.UID()
	if !rootless.Active() {
		return nil, api.Errorf(api.Unsupported, "root's containers need no subtree of their own")
	}
	return delegated.Find(uid, e.state)
}

// groupName is the file in a sandbox's folder that has the path of its container's control group, where a normal user has one.
const groupName = "cgroup"

// chooseGroup finds a place for the control group of a normal user's container that is about to be started, and writes down where that is: another
// command may find another. It returns what the keeper is told.
func (e *Engine) chooseGroup(c *api.Container) (arg string, err error) {
	tree, err := e.subtree()
	if err != nil {
		return "", nil //nolint:nilerr // it does without; what cannot, checkRootless has refused
	}
	group := tree.Group(c.Spec.CgroupParent, "brig-"+c.ID)
	return tree.Arg(), writePlain(filepath.Join(e.sandboxDir(c.ID), groupName), []byte(group), 0o600)
}

// rootlessGroup is what chooseGroup has written down, "" for a container that has no group, or does not run.
func (e *Engine) rootlessGroup(id string) string {
	group, err := os.ReadFile(filepath.Join(e.sandboxDir(id), groupName))
	if err != nil {
		return ""
	}
	return string(group)
}

// hasGroups reports whether a container that is started now has a control group.
func (e *Engine) hasGroups() bool {
	if !rootless.Active() {
		return true
	}
	_, err := e.subtree()
	return err == nil
}

// checkRootless refuses what nothing could keep here.
func (e *Engine) checkRootless(s *api.ContainerSpec) error {
	asked := limited(s)
	if len(asked) == 0 {
		return nil
	}
	tree, err := e.subtree()
	if err != nil {
		return api.Errorf(api.Unsupported, "%s: a container without root's rights has no control group here: %w: or leave the flag out, or run as root", asked[0].flag, err)
	}
	for _, a := range asked {
		if a.controller != "" && !tree.Has(a.controller) {
			return api.Errorf(api.Unsupported, "%s: %w", a.flag, tree.Lacks(a.controller))
		}
	}
	return nil
}

// asked is a flag that asks for something of a control group, and the controller of version 2 that does it.
type asked struct{ flag, controller string }

// limited are the flags of a container that do.
func limited(s *api.ContainerSpec) (list []asked) {
	l := &s.Limits
	for _, f := range [...]struct {
		set  bool
		flag asked
	}{
		{l.Memory != 0, asked{"--memory", "memory"}}, {l.MemoryReservation != 0, asked{"--memory-reservation", "memory"}},
		{l.MemorySwap != 0, asked{"--memory-swap", "memory"}}, {l.MemorySwappiness != nil, asked{"--memory-swappiness", "memory"}},
		{l.OOMKillDisable, asked{"--oom-kill-disable", "memory"}}, {l.NanoCPUs != 0, asked{"--cpus", "cpu"}}, {l.CPUQuota != 0, asked{"--cpu-quota", "cpu"}},
		{l.CPUPeriod != 0, asked{"--cpu-period", "cpu"}}, {l.CPUShares != 0, asked{"--cpu-shares", "cpu"}}, {l.CPUs != "", asked{"--cpuset-cpus", "cpuset"}},
		{l.MemoryNodes != "", asked{"--cpuset-mems", "cpuset"}}, {l.Pids > 0, asked{"--pids-limit", "pids"}}, {l.BlkioWeight != 0, asked{"--blkio-weight", "io"}},
		{len(l.DeviceWeights) > 0, asked{"--blkio-weight-device", "io"}}, {s.CgroupParent != "", asked{"--cgroup-parent", ""}},
	} {
		if f.set {
			list = append(list, f.flag)
		}
	}
	for what := range l.DeviceRates {
		list = append(list, asked{"--device-" + what, "io"})
	}
	for file := range s.CgroupConf {
		controller, _, _ := strings.Cut(file, ".")
		if controller == "cgroup" { // cgroup.freeze, cgroup.max.depth: every group has them
			controller = ""
		}
		list = append(list, asked{"--cgroup-conf " + file, controller})
	}
	return list
}

// rootlessMounts are a container's own mounts without root: a control group if it has one, and that to read only, the terminals' group only where it is mapped, and with
// the host's network the host's /sys, since the kernel shows the devices of a namespace to its owner only.
func rootlessMounts(list []specs.Mount, s *api.ContainerSpec, group bool) []specs.Mount {
	if !group {
		list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Type == "cgroup" })
	}
	for i := range list {
		m := &list[i]
		switch {
		case m.Type == "cgroup" && !slices.Contains(m.Options, "ro"):
			m.Options = append(slices.Clone(m.Options), "ro")
		case m.Type == "devpts" && !userns.Mapped("gid", ttyGroup):
			m.Options = withoutGroup(m.Options)
		case m.Type == "sysfs" && s.Network.Mode == api.NamespaceHost:
			hostSysfs(m)
		case m.Type == "proc" && s.Namespaces.PID == api.NamespaceHost: // whose processes only its owner may show
			m.Type, m.Source, m.Options = "bind", "/proc", append([]string{"rbind", "rprivate"}, m.Options...)
		}
	}
	return list
}

// withoutGroup are a devpts's options where the terminals' group is not mapped.
func withoutGroup(options []string) []string {
	return slices.DeleteFunc(options, func(o string) bool { return strings.HasPrefix(o, "gid=") })
}

// hostSysfs shows the host's /sys in place of one of the container's own.
func hostSysfs(m *specs.Mount) {
	m.Type, m.Source, m.Options = "bind", "/sys", append([]string{"rbind", "rprivate", "rro"}, m.Options...)
}

// rootlessDevices has the host's own nodes bound, which root of a user namespace cannot make. Whether they can be opened is the host's to say, by their mode.
func rootlessDevices(o *specs.Spec, s *api.ContainerSpec) error {
	all := o.Linux.Devices // for a privileged container the host's, at their places
	o.Linux.Devices = nil
	bind := func(source, target string) {
		o.Mounts = append(o.Mounts, specs.Mount{Type: "bind", Source: source, Destination: target, Options: []string{"bind", "rprivate", "nosuid", "noexec"}})
	}
	for i := range all {
		if s.Privileged && exists(all[i].Path) {
			bind(all[i].Path, all[i].Path)
		}
	}
	for _, d := range s.Devices {
		if isCDI(&d) {
			continue
		}
		st, err := os.Stat(d.Source)
		if err != nil {
			return api.Errorf(api.InvalidArgument, "device %s: %w", d.Source, err)
		}
		if !st.IsDir() {
			bind(d.Source, d.Target)
			continue
		}
		entries, err := os.ReadDir(d.Source)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry.Type()&os.ModeDevice != 0 {
				bind(filepath.Join(d.Source, entry.Name()), filepath.Join(d.Target, entry.Name()))
			}
		}
	}
	return nil
}

// ttyGroup owns terminals in every distribution.
const ttyGroup = 5

// ownFolder makes a normal user's state folder with its parents, 0700, and refuses one that others could have made: the place may be below /tmp.
func ownFolder(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dir), 0o700); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return api.Errorf(api.KindOf(err), "state folder: %w: set XDG_RUNTIME_DIR, or use --state", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return api.Errorf(api.InvalidArgument, "state folder %s is not a folder: remove it, or use --state", dir)
	case int(st.Uid) != os.Geteuid():
		return api.Errorf(api.Denied, "state folder %s belongs to user %d: a store is one user's: remove it, or use --state", dir, st.Uid)
	case st.Mode&0o022 != 0:
		return api.Errorf(api.Denied, "state folder %s may be written by others (mode %#o): `chmod 700` it, or use --state", dir, st.Mode&0o7777)
	}
	return nil
}
