package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/seccomp"
	"brig/internal/runtime/shim"
)

// Why says what a container is doing, or why it ended.
func (e *Engine) Why(ctx context.Context, name string) (api.Why, error) {
	c, err := e.Inspect(ctx, name)
	if err != nil {
		return api.Why{}, err
	}
	w := api.Why{Name: c.Name, Status: c.State.Status}
	said := func(cause, format string, args ...any) (api.Why, error) {
		w.Cause, w.Text = cause, fmt.Sprintf(format, args...)
		return w, nil
	}
	switch c.State.Status {
	case api.StatusRunning, api.StatusPaused:
		if h := c.State.Health; h != nil && h.Status == api.HealthUnhealthy {
			last := h.Log[len(h.Log)-1]
			return said("unhealthy", "it runs, but %d health checks in a row have failed; the last said: %s", h.FailingStreak, quoted(last.Output))
		}
		if c.State.Status == api.StatusPaused {
			return said("paused", "it is paused: `brig unpause %s` lets it go on", c.Name)
		}
		return said("running", "it runs")
	case api.StatusInitialized:
		return said("initialized", "it is ready, and its command has not been executed: `brig start %s`", c.Name)
	case api.StatusCreated:
		if c.State.Exit != nil { // it was tried
			break
		}
		return said("created", "it has not been started: `brig start %s`", c.Name)
	case api.StatusDead:
		return said("dead", "it was half made or half removed by a process that died: `brig rm -f %s` clears it away", c.ID)
	}
	r := e.lastExit(c.ID)
	if r == nil {
		r = &shim.ExitRecord{Exit: lostExit}
		if c.State.Exit != nil {
			r.Exit = *c.State.Exit
		}
	}
	w.Exit = &r.Exit
	w.Cause, w.Text = e.causeOf(&c, r)
	if c.State.Status == api.StatusRestarting {
		w.Text += "; it is about to be started again"
	}
	return w, nil
}

// causeOf tells from what is known of a run's end why that was.
func (e *Engine) causeOf(c *api.Container, r *shim.ExitRecord) (cause, text string) {
	x := &r.Exit
	const notStarted = "it could not be started: "
	switch {
	case r.NotAgain != "":
		return "not-started", notStarted + r.NotAgain
	case x.OOMKilled && c.Spec.Limits.Memory > 0:
		return "oom", fmt.Sprintf("it wanted more memory than its limit of %s: give it more with --memory, or have it take less", binarySize(c.Spec.Limits.Memory))
	case x.OOMKilled:
		return "machine-oom", "the machine had no memory left, and the kernel chose it to be killed; it has no limit of its own: --memory sets one"
	case r.Unhealthy != "":
		return "unhealthy", "it was ended for being unhealthy (--health-on-failure " + r.Unhealthy + "): " + ending(x)
	case r.Asked != "":
		return "asked", r.Asked + ": " + ending(x)
	case x.Signal == int(unix.SIGSYS):
		if call := forbiddenCall(r); call != "" {
			return "seccomp", fmt.Sprintf("its seccomp profile forbids the system call %s, which it made: allow it there, or use --security-opt seccomp=unconfined", call)
		}
		return "seccomp", "it made a system call that its seccomp profile forbids (SIGSYS); the kernel's log may say which"
	case x.Signal == int(unix.SIGKILL) && ulimit(c, "cpu") > 0:
		return "limit", fmt.Sprintf("the kernel, or a process, sent it SIGKILL: it may have come to its limit of processor time (--ulimit cpu=%d)", ulimit(c, "cpu"))
	case x.Signal != 0:
		return signalled(unix.Signal(x.Signal))
	case x.Error != "" && r.StartedAt.IsZero():
		return "not-started", notStarted + x.Error
	case x.Error != "":
		return "lost", x.Error
	case x.Code == 0:
		return "done", "its command ended by itself, with exit code 0: a container ends with its first process"
	}
	if r.Crowded {
		limit := "its limit"
		if n := c.Spec.Limits.Pids; n > 0 {
			limit = fmt.Sprintf("its limit of %d", n)
		}
		return "pids", fmt.Sprintf("its command ended with exit code %d, after it had come to %s of processes and could start no more: give it more with --pids-limit", x.Code, limit)
	}
	text = fmt.Sprintf("its command ended by itself, with exit code %d%s", x.Code, codeHint(x.Code))
	if last := e.lastWords(c.ID); last != "" {
		text += "; the last that it said: " + quoted(last)
	}
	return "failed", text
}

// ulimit is the hard limit of a container by its name, 0 for none.
func ulimit(c *api.Container, name string) int64 {
	for _, u := range c.Spec.Ulimits {
		if u.Name == name {
			return u.Hard
		}
	}
	return 0
}

// signalled is about a signal that nobody of Brig's sent.
func signalled(sig unix.Signal) (cause, text string) {
	switch sig {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGABRT, unix.SIGTRAP:
		what := map[unix.Signal]string{
			unix.SIGSEGV: "it used memory that is not its own", unix.SIGBUS: "it used memory that is not there: a mapped file that was cut, or a full disk or /dev/shm (--shm-size)",
			unix.SIGILL: "its processor does not know an instruction of it", unix.SIGFPE: "it divided by zero", unix.SIGABRT: "it gave itself up", unix.SIGTRAP: "it stopped at a trap",
		}[sig]
		return "crash", fmt.Sprintf("it crashed: %s (%s)", what, unix.SignalName(sig))
	case unix.SIGXCPU:
		return "limit", "it used more processor time than its limit (--ulimit cpu)"
	case unix.SIGXFSZ:
		return "limit", "it wrote a larger file than its limit (--ulimit fsize)"
	}
	return "signal", fmt.Sprintf("a process sent it %s: not Brig, and not the kernel for want of memory", unix.SignalName(sig))
}

// ending says how a run ended that somebody ended.
func ending(x *api.Exit) string {
	if x.Signal != 0 {
		return "it was ended by " + unix.SignalName(unix.Signal(x.Signal))
	}
	return "it ended with exit code " + strconv.Itoa(x.Code)
}

// codeHint is what an exit code means by custom.
func codeHint(code int) string {
	switch {
	case code == 126:
		return ": by custom, a shell in it found a command that cannot be executed"
	case code == 127:
		return ": by custom, a shell in it did not find a command"
	case code > 128 && code < 128+65 && unix.SignalName(unix.Signal(code-128)) != "":
		return ": by custom, a process that it had started was ended by " + unix.SignalName(unix.Signal(code-128))
	}
	return ""
}

// binarySize writes bytes for people, in powers of 1024.
func binarySize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// quoted is what a container said, of which one line is told, made fit for a terminal.
func quoted(s string) string {
	const most = 200
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(strings.ToValidUTF8(s, "?"))
}

// lastWords is the last line of a container's log, empty where there is none that can be read.
func (e *Engine) lastWords(id string) (last string) {
	_ = e.Logs(context.Background(), id, api.LogOptions{Tail: 1}, func(l api.LogEntry) error {
		last = string(l.Line)
		return nil
	})
	return last
}

// killedBySeccomp is the kernel's word about a process that a filter killed: audit's record 1326.
const killedBySeccomp = `type=1326 .* pid=%d .* sig=31 arch=([0-9a-f]+) syscall=([0-9]+) `

// forbiddenCall looks for the system call in the kernel's log; empty where that cannot be read, or has it no more.
func forbiddenCall(r *shim.ExitRecord) string {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil || r.Pid == 0 {
		return ""
	}
	defer unix.Close(fd)
	re := regexp.MustCompile(fmt.Sprintf(killedBySeccomp, r.Pid))
	found := ""
	b := make([]byte, 8<<10) // a record is never longer
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EPIPE) { // it was overwritten meanwhile
			continue
		}
		if err != nil || n == 0 {
			break
		}
		if m := re.FindSubmatch(b[:n]); m != nil {
			arch, _ := strconv.ParseUint(string(m[1]), 16, 32)
			number, _ := strconv.ParseUint(string(m[2]), 10, 32)
			if found = seccomp.Name(uint32(arch), uint32(number)); found == "" {
				found = "number " + string(m[2])
			}
		}
	}
	return found
}

// asks writes down who is about to end a container, for Why. It may fail: the container ends all the same.
func (e *Engine) asks(id, format string, args ...any) {
	by := fmt.Sprintf(", by process %d of user %d", os.Getpid(), os.Getuid())
	_ = writePlain(filepath.Join(e.sandboxDir(id), shim.AskedName), []byte(fmt.Sprintf(format, args...)+by), 0o600)
}
