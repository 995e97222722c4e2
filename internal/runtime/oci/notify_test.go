package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Structures and requests of linux/seccomp.h.
type (
	notification struct {
		ID    uint64
		PID   uint32
		Flags uint32
		NR    int32
		Arch  uint32
		IP    uint64
		Args  [6]uint64
	}
	answer struct {
		ID    uint64
		Val   int64
		Error int32
		Flags uint32
	}
)

const (
	notifRecv     = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifSend     = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	notifContinue = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// agent is a seccomp agent for a test. It makes a folder that a container asks for with mkdir below /tmp under another name, refuses those below
// /no with ENOSPC, and lets every other call go on.
type agent struct {
	t      *testing.T
	socket string
	states chan specs.ContainerProcessState
	seen   chan int32 // numbers of the calls
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{t: t, socket: filepath.Join(t.TempDir(), "agent"), states: make(chan specs.ContainerProcessState, 4), seen: make(chan int32, 1000)}
	l := listenUnix(t, a.socket)
	t.Cleanup(func() { unix.Shutdown(l, unix.SHUT_RDWR) }) // ends accept
	go func() {
		defer unix.Close(l)
		for {
			c, _, err := unix.Accept(l)
			if err != nil {
				return
			}
			if err := a.take(c); err != nil {
				t.Error(err)
			}
		}
	}()
	return a
}

// listenUnix makes the socket without package net, whose presence would link the C library where cgo is on: the helper must be static.
func listenUnix(t *testing.T, path string) int {
	t.Helper()
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(l, 4)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// take receives a state and its listener, and the end of the connection behind them.
func (a *agent) take(c int) error {
	defer unix.Close(c)
	var data []byte
	fd := -1
	for {
		buf, oob := make([]byte, 4096), make([]byte, 128)
		n, oobn, _, _, err := unix.Recvmsg(c, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if msgs, perr := unix.ParseSocketControlMessage(oob[:oobn]); perr == nil && len(msgs) > 0 {
			fds, _ := unix.ParseUnixRights(&msgs[0])
			if len(fds) != 1 || fd >= 0 {
				return fmt.Errorf("%d descriptors, one is had", len(fds))
			}
			fd = fds[0]
		}
		data = append(data, buf[:n]...)
		if err != nil || n == 0 {
			break
		}
	}
	var s specs.ContainerProcessState
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	a.states <- s
	go a.answer(fd)
	return nil
}

func (a *agent) answer(fd int) {
	defer unix.Close(fd)
	for {
		var n notification
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return
		}
		if p[0].Revents&unix.POLLHUP != 0 && p[0].Revents&unix.POLLIN == 0 {
			return
		}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifRecv, uintptr(unsafe.Pointer(&n))); e != 0 {
			continue
		}
		a.seen <- n.NR
		r := answer{ID: n.ID, Flags: notifContinue}
		if n.NR == unix.SYS_MKDIRAT {
			r.Flags, r.Error = 0, -int32(a.mkdir(int(n.PID), n.Args[1]))
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSend, uintptr(unsafe.Pointer(&r)))
	}
}

func (a *agent) mkdir(pid int, at uint64) unix.Errno {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return unix.EIO
	}
	defer mem.Close()
	buf := make([]byte, 64)
	if n, _ := mem.ReadAt(buf, int64(at)); n == 0 {
		return unix.EFAULT
	}
	name := unix.ByteSliceToString(buf)
	if strings.HasPrefix(name, "/no") {
		return unix.ENOSPC
	}
	if err := os.Mkdir(fmt.Sprintf("/proc/%d/root%s", pid, name), 0o700); err != nil {
		a.t.Error(err)
		return unix.EIO
	}
	return 0
}

func notifyFilter(a *agent, calls ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: a.socket, ListenerMetadata: "for the agent",
		Syscalls: []specs.LinuxSyscall{{Names: calls, Action: specs.ActNotify}},
	}
}

// TestNotify: an agent gets the listener of a container's filter with the state of config-linux.md, and answers its calls.
func TestNotify(t *testing.T) {
	for name, noNewPrivs := range map[string]bool{"with no_new_privs": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			l := newLive(t, "mkdir", "/tmp/by-agent")
			l.req.Spec.Process.NoNewPrivileges = noNewPrivs
			l.req.Spec.Linux.Seccomp = notifyFilter(a, "mkdir", "mkdirat")
			l.req.Spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv}
			l.req.Spec.Annotations = map[string]string{"a": "b"}
			c := l.start()
			defer c.Close()
			state := <-a.states
			if state.Version != specs.Version || len(state.Fds) != 1 || state.Fds[0] != specs.SeccompFdName || state.Pid != c.Pid || state.Metadata != "for the agent" {
				t.Errorf("%+v", state)
			}
			s := state.State
			if s.Version != specs.Version || s.ID != l.req.ID || s.Status != specs.StateCreating || s.Pid != c.Pid || s.Bundle != l.req.Bundle || s.Annotations["a"] != "b" {
				t.Errorf("%+v", s)
			}
			text := make([]byte, 200)
			n, _ := l.out.Read(text)
			if got := string(text[:n]); got != "/tmp/by-agent is a folder: true\n" {
				t.Errorf("the container: %s", got)
			}
			if exit, err := c.Reap(); err != nil || exit.Code != 0 {
				t.Errorf("exit %+v, %v", exit, err)
			}
		})
	}
}

// TestNotifyOwnCalls: the child's calls between its filter and execve may be the agent's too, whichever they are; only write cannot.
func TestNotifyOwnCalls(t *testing.T) {
	a := newAgent(t)
	l := newLive(t, "mkdir", "/no/way")
	l.req.Spec.Linux.Seccomp = notifyFilter(a, "mkdirat", "read", "close", "prctl", "setgroups", "setresgid", "setresuid", "capset", "umask", "execve")
	c := l.start()
	defer c.Close()
	<-a.states
	text := make([]byte, 200)
	n, _ := l.out.Read(text)
	if got := string(text[:n]); !strings.Contains(got, "no space left") {
		t.Errorf("the agent's errno did not arrive: %s", got)
	}
	c.Reap()
	seen := map[int32]bool{}
	for len(a.seen) > 0 {
		seen[<-a.seen] = true
	}
	for _, nr := range []int32{unix.SYS_READ, unix.SYS_CLOSE, unix.SYS_CAPSET, unix.SYS_EXECVE, unix.SYS_MKDIRAT} {
		if !seen[nr] {
			t.Errorf("call %d did not reach the agent", nr)
		}
	}
}

// TestNotifyExec: a process of exec has a listener of its own, with the container's state.
func TestNotifyExec(t *testing.T) {
	a := newAgent(t)
	l := newLive(t, "sleep")
	c := l.start()
	defer c.Abandon()
	l.exec(c, &ExecRequest{Bundle: "/b", Seccomp: Filter{Spec: notifyFilter(a, "mkdirat")}, Container: l.req.Spec}, "tell")
	s := <-a.states
	if s.Pid == c.Pid || s.State.Pid != c.Pid || s.State.Status != specs.StateRunning || s.State.ID != l.req.ID || s.State.Bundle != "/b" {
		t.Errorf("%+v", s)
	}
}

// TestNotifyAtTheGate: who starts a container that was created and left hands its listener over.
func TestNotifyAtTheGate(t *testing.T) {
	for _, gone := range []bool{false, true} {
		a := newAgent(t)
		l := newLive(t, "mkdir", "/tmp/by-agent")
		l.req.Spec.Linux.Seccomp = notifyFilter(a, "mkdirat", "read")
		dir := t.TempDir()
		gate, err := OpenGate(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.req.Gate = gate
		fds, out, done := stdio(t)
		l.req.Stdio = fds
		c, err := Create(l.req)
		done()
		unix.Close(gate)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Cgroup.Remove()
		if err := c.Hold(); err != nil {
			t.Fatal(err)
		}
		state, err := StateJSON(l.req.Spec, l.req.ID, l.req.Bundle, specs.StateCreated, c.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if gone {
			os.Remove(a.socket)
		}
		err = StartAt(dir, l.req.Spec, specs.State{ID: l.req.ID, Bundle: l.req.Bundle, Pid: c.Pid}, state)
		if gone {
			if api.KindOf(err) != api.Unavailable || !strings.Contains(err.Error(), "linux.seccomp.listenerPath") {
				t.Errorf("agent gone: %v", err)
			}
			c.Reap() // it does not wait for an answer
			c.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if s := (<-a.states).State; s.ID != l.req.ID || s.Pid != c.Pid || s.Status != specs.StateCreating || s.Bundle != l.req.Bundle {
			t.Errorf("%+v", s)
		}
		text := make([]byte, 200)
		n, _ := out.Read(text)
		if got := string(text[:n]); got != "/tmp/by-agent is a folder: true\n" {
			t.Errorf("the container: %s", got)
		}
		c.Reap()
		c.Close()
	}
}

// TestNotifyAgentGone: an agent that cannot be reached is an error with the field's name, and the container, which waits, is ended.
func TestNotifyAgentGone(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	unix.Close(listenUnix(t, dead))
	c := newLive(t, "tell")
	// Nobody ever answers its read, not even the one of the acknowledgement.
	c.req.Spec.Linux.Seccomp = notifyFilter(&agent{socket: dead}, "read", "execve")
	ended := make(chan bool)
	go func() {
		c.refused(api.Unavailable, "linux.seccomp.listenerPath")
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for ever")
	}
	for path, kind := range map[string]api.Kind{filepath.Join(dir, "missing"): api.Unavailable, dir: api.InvalidArgument, "": api.InvalidArgument} {
		s := validSpec()
		s.Linux.Seccomp = notifyFilter(&agent{socket: path}, "mkdir")
		s.Linux.Seccomp.ListenerMetadata = ""
		if err := Validate(s); err == nil || api.KindOf(err) != kind || !strings.Contains(err.Error(), "linux.seccomp.listenerPath") {
			t.Errorf("%q: %v (%s)", path, err, api.KindOf(err))
		}
	}
}

// TestSeccompArguments: errnoRet, and the operators on arguments, as the process feels them.
func TestSeccompArguments(t *testing.T) {
	one, two := uint(1001), uint(1002)
	arg := func(op specs.LinuxSeccompOperator, v, v2 uint64) []specs.LinuxSeccompArg {
		return []specs.LinuxSeccompArg{{Index: 0, Op: op, Value: v, ValueTwo: v2}}
	}
	for _, tc := range []struct {
		args []specs.LinuxSeccompArg
		want string // errno of getsid(0), getsid(40), getsid(91): 0 and ESRCH without the filter
	}{
		{arg(specs.OpEqualTo, 40, 0), "0 1001 3"}, {arg(specs.OpNotEqual, 40, 0), "1001 3 1001"},
		{arg(specs.OpLessThan, 40, 0), "1001 3 3"}, {arg(specs.OpLessEqual, 40, 0), "1001 1001 3"},
		{arg(specs.OpGreaterThan, 40, 0), "0 3 1001"}, {arg(specs.OpGreaterEqual, 40, 0), "0 1001 1001"},
		{arg(specs.OpMaskedEqual, 1, 1), "0 3 1001"}, {nil, "1001 1001 1001"},
	} {
		l := newLive(t, "errno")
		l.req.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv},
			Syscalls: []specs.LinuxSyscall{
				{Names: []string{"getsid"}, Action: specs.ActErrno, ErrnoRet: &one, Args: tc.args},
				{Names: []string{"getpgid"}, Action: specs.ActErrno, ErrnoRet: &two, Args: arg(specs.OpMaskedEqual, 0xf, 0xf)},
			},
		}
		want := tc.want + " 0 1002 "
		if got := l.output(); got != want {
			t.Errorf("%+v: %q, want %q", tc.args, got, want)
		}
	}
}

// TestDefaultErrno: defaultErrnoRet is what all other calls give; a filter that refuses even the end of a process does not leave it running.
func TestDefaultErrno(t *testing.T) {
	code := uint(unix.EXDEV)
	for name, allowed := range map[string][]string{"report and exit": {"write", "exit_group"}, "nothing": {"swapon"}} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t, "tell")
			l.req.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, DefaultErrnoRet: &code, Syscalls: []specs.LinuxSyscall{{Names: allowed, Action: specs.ActAllow}},
			}
			fds, _, done := stdio(t)
			defer done()
			l.req.Stdio = fds
			c, err := Create(l.req)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			defer c.Cgroup.Remove()
			err = c.Start()
			dead := time.AfterFunc(20*time.Second, func() {
				t.Error("it runs still")
				unix.PidfdSendSignal(c.PidFD, unix.SIGKILL, nil, 0)
			})
			exit, _ := c.Reap()
			dead.Stop()
			if name == "nothing" {
				if exit.Code != 128+int(unix.SIGSEGV) {
					t.Errorf("exit %d", exit.Code)
				}
			} else if !errors.Is(err, unix.EXDEV) {
				t.Errorf("the first call after the filter gave %v, not the filter's errno", err)
			}
		})
	}
}
