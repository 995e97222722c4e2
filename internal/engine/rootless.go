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

// checkRootless refuses what takes root of the machine.
func checkRootless(s *api.ContainerSpec) error {
	for _, limit := range []struct {
		flag string
		set  bool
	}{{"--memory", s.Limits.Memory != 0}, {"--cpus", s.Limits.NanoCPUs != 0}, {"--pids-limit", s.Limits.Pids > 0}} {
		if limit.set {
			return api.Errorf(api.Unsupported, "%s: a container without root's rights has no control group that could keep the limit: leave the flag out, or run as root", limit.flag)
		}
	}
	return nil
}

// rootlessMounts are a container's own mounts without root: no control groups, the terminals' group only where it is mapped, and with the host's
// network the host's /sys, since the kernel shows the devices of a namespace to its owner only.
func rootlessMounts(list []specs.Mount, hostNetwork bool) []specs.Mount {
	list = slices.DeleteFunc(list, func(m specs.Mount) bool { return m.Type == "cgroup" })
	for i := range list {
		m := &list[i]
		switch {
		case m.Type == "devpts" && !userns.Mapped("gid", ttyGroup):
			m.Options = withoutGroup(m.Options)
		case m.Type == "sysfs" && hostNetwork:
			hostSysfs(m)
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
