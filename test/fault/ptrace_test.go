package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// victim is which program is killed.
type victim string

const (
	theCommand victim = "brig"
	theShim    victim = "brig-oci"
)

const wnothread = 0x20000000 // __WNOTHREAD, wait(2): only what this thread started or traces

// killAt runs cmd and kills its victim at the victim's n-th stop at a system call, of which each has two; with n = 0 it kills nobody. It
// returns how many there were until the command had ended.
func killAt(t *testing.T, cmd *exec.Cmd, who victim, n int) (count int) {
	t.Helper()
	tr := &tracer{who: who, n: n, groups: map[int]victim{}}
	done := make(chan error, 1)
	go onThread(func() { done <- tr.run(cmd) })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	resume()
	return tr.count
}

// resume takes back the SIGSTOP with which the kernel hands a new thread to its tracer, where there was none any more to take it.
func resume() {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && pid > 1 && pid != os.Getpid() {
			unix.Kill(pid, unix.SIGCONT)
		}
	}
}

// onThread runs f on a thread that ends with it, upon which the kernel lets go of what it traced. The process's first thread never ends.
func onThread(f func()) {
	runtime.LockOSThread() // and never unlocked
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
}

type tracer struct {
	who    victim
	n      int
	count  int
	main   int            // the command
	groups map[int]victim // what each process is, by its number
}

func (t *tracer) run(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Process.Release()
	t.main = cmd.Process.Pid
	if _, err := unix.Wait4(t.main, nil, unix.WALL|wnothread, nil); err != nil {
		return fmt.Errorf("first stop: %w", err)
	}
	const follow = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC
	if err := unix.PtraceSetOptions(t.main, follow); err != nil {
		return err
	}
	t.groups[t.main] = theCommand
	unix.PtraceSyscall(t.main, 0)
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|wnothread, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil // nobody is left
		}
		if ws.Exited() || ws.Signaled() {
			if tid == t.main {
				return nil
			}
			continue
		}
		t.stopped(tid, ws)
	}
}

// stopped lets a thread go on, or kills its process.
func (t *tracer) stopped(tid int, ws unix.WaitStatus) {
	group := groupOf(tid)
	sig := ws.StopSignal()
	switch {
	case sig == unix.SIGTRAP|0x80:
		if t.groups[group] != t.who {
			break
		}
		if t.count++; t.count == t.n {
			unix.Kill(group, unix.SIGKILL)
			return
		}
	case sig == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_EXEC:
		argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tid))
		if strings.HasPrefix(string(argv), "brig-oci\x00shim\x00") {
			t.groups[group] = theShim // and so is the clean-up that it executes later
		}
	case sig == unix.SIGTRAP, sig == unix.SIGSTOP: // an event, or a new thread's first stop
	default:
		unix.PtraceSyscall(tid, int(sig))
		return
	}
	unix.PtraceSyscall(tid, 0)
}

// groupOf is the process of a thread.
func groupOf(tid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "\nTgid:")
	group := 0
	fmt.Sscan(rest, &group)
	return group
}
