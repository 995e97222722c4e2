package runtime

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// receiver listens as an engine does at --console-socket or --pidfd-socket.
type receiver struct {
	path string
	l    *net.UnixListener
}

func (w *world) receiver(dir string) *receiver {
	w.t.Helper()
	r := &receiver{path: dir + "/socket"}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	address := r.path
	if len(address) > 100 { // unix(7): through a folder's descriptor
		d, err := os.Open(dir)
		if err != nil {
			w.t.Fatal(err)
		}
		defer d.Close()
		address = fmt.Sprintf("/proc/self/fd/%d/socket", d.Fd())
	}
	var err error
	if r.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"}); err != nil {
		w.t.Fatal(err)
	}
	r.l.SetUnlinkOnClose(false)
	w.t.Cleanup(func() { r.l.Close() })
	return r
}

// take returns the descriptor and the name that came with it.
func (r *receiver) take(t *testing.T) (*os.File, string) {
	t.Helper()
	r.l.SetDeadline(time.Now().Add(soon))
	c, err := r.l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf, oob := make([]byte, 4096), make([]byte, 256)
	n, m, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	list, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(list) != 1 {
		t.Fatalf("%d control messages, %v", len(list), err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	unix.CloseOnExec(fds[0])
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "received"), string(buf[:n])
}

// terminal collects what comes out of a terminal's master end.
type terminal struct {
	t      *testing.T
	master *os.File
	seen   string
}

// expect waits until text comes.
func (x *terminal) expect(text string) {
	x.t.Helper()
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(soon); ; {
		if i := strings.Index(x.seen, text); i >= 0 {
			x.seen = x.seen[i+len(text):]
			return
		}
		x.master.SetReadDeadline(deadline)
		n, err := x.master.Read(buf)
		x.seen += string(buf[:n])
		if err != nil && !strings.Contains(x.seen, text) {
			x.t.Fatalf("no %q came: %v: %q", text, err, x.seen)
		}
	}
}

func (x *terminal) send(text string) {
	x.t.Helper()
	if _, err := x.master.WriteString(text); err != nil {
		x.t.Error(err)
	}
}

// newTerminal makes a terminal of 24 by 80 for a program of the test's.
func newTerminal(t *testing.T) (*terminal, *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	resize(t, fd, 24, 80)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return &terminal{t: t, master: master}, slave
}

func resize(t *testing.T, fd int, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func withTerminal(s *specs.Spec) { s.Process.Terminal = true }

// TestConsoleSocket: create hands the master over, with its name; the terminal works after start, has the size of consoleSize and ends with the process.
func TestConsoleSocket(t *testing.T) {
	for name, dir := range map[string]string{"short": "", "long": "/" + strings.Repeat("long", 40)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.receiver(w.dir + "/console" + dir)
			id := w.created(w.bundle(func(s *specs.Spec) {
				withTerminal(s)
				s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
			}, "sh", "-c", "tty; stty size; trap 'exit 4' INT; read x; echo got $x; while :; do sleep 0.05; done"), "--console-socket", r.path)
			master, word := r.take(t)
			defer master.Close()
			if word != "/dev/ptmx" {
				t.Errorf("the name is %q", word)
			}
			w.must("start", id)
			x := &terminal{t: t, master: master}
			x.expect("/dev/pts/0")
			x.expect("33 77")
			x.send("word\r")
			x.expect("got word")
			x.send("\x03") // Control-C reaches the process: it has a controlling terminal
			w.becomes(id, "stopped")
			w.must("delete", id)
		})
	}
}

// TestConsoleErrors: flags that do not fit, and a socket at which nobody is, leave nothing.
func TestConsoleErrors(t *testing.T) {
	w := newWorld(t)
	plain, tty := w.bundle(nil, "true"), w.bundle(withTerminal, "true")
	id := w.name()
	w.fails(1, "--console-socket", "create", "--bundle", tty, id)
	w.fails(1, "--console-socket", "run", "--detach", "--bundle", tty, id)
	w.fails(1, "console socket", "create", "--bundle", plain, "--console-socket", w.dir+"/x", id)
	w.fails(1, "console socket", "run", "--bundle", tty, "--console-socket", w.dir+"/x", id)
	w.fails(1, w.dir+"/x: no such file", "create", "--bundle", tty, "--console-socket", w.dir+"/x", id)
	w.fails(1, "no such file", "create", "--bundle", plain, "--pidfd-socket", w.dir+"/x", id)
	w.fails(1, "--pid-file", "create", "--bundle", plain, "--pid-file", "/no/such/folder/pid", id)
	w.fails(1, "--pid-file", "run", "--bundle", plain, "--pid-file", "/no/such/folder/pid", id)
	if w.has(id) {
		t.Error("a container is left")
	}
}

// TestPidfdSocket: the descriptor is the container's process.
func TestPidfdSocket(t *testing.T) {
	w := newWorld(t)
	r := w.receiver(w.dir + "/pidfd")
	id := w.created(w.bundle(nil, "sleep", "100"), "--pidfd-socket", r.path)
	pidfd, _ := r.take(t)
	defer pidfd.Close()
	w.must("start", id)
	if info := w.read(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd())); !strings.Contains(info, fmt.Sprintf("Pid:\t%d\n", w.state(id).Pid)) {
		t.Errorf("fdinfo %q, state says %d", info, w.state(id).Pid)
	}
	w.must("exec", "--detach", "--pidfd-socket", r.path, "--pid-file", w.dir+"/pid", id, "sleep", "101")
	other, _ := r.take(t)
	defer other.Close()
	if info := w.read(fmt.Sprintf("/proc/self/fdinfo/%d", other.Fd())); !strings.Contains(info, "Pid:\t"+w.read(w.dir+"/pid")+"\n") {
		t.Errorf("exec: fdinfo %q, pid file %q", info, w.read(w.dir+"/pid"))
	}
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0); err != nil {
		t.Error(err)
	}
	w.becomes(id, "stopped")
	w.must("delete", id)
}

// TestPreservedDescriptors: what is asked for is passed on, nothing else is, and what is not open is refused.
func TestPreservedDescriptors(t *testing.T) {
	w := newWorld(t)
	text := func(s string) *os.File {
		f := w.file()
		f.WriteString(s)
		f.Seek(0, 0)
		return f
	}
	const script = `ls /proc/self/fd | wc -l; for i in 3 4 5; do [ -e /proc/self/fd/$i ] && eval "cat <&$i"; done; echo fds=$LISTEN_FDS pid=$LISTEN_PID`
	for _, c := range []struct {
		flags []string
		env   []string
		files int
		want  string
		err   string
	}{
		{nil, nil, 2, "4\nfds= pid=", ""},
		{[]string{"--preserve-fds", "1"}, nil, 2, "5\nfile 3\nfds= pid=", ""},
		{[]string{"--preserve-fds=2"}, nil, 2, "6\nfile 3\nfile 4\nfds= pid=", ""},
		{nil, []string{"LISTEN_FDS=1"}, 2, "5\nfile 3\nfds=1 pid=1", ""},
		{[]string{"--preserve-fds=1"}, []string{"LISTEN_FDS=1"}, 2, "6\nfile 3\nfile 4\nfds=1 pid=1", ""},
		{[]string{"--preserve-fds=1"}, nil, 0, "", "descriptor 3 is not open"},
		{[]string{"--preserve-fds=3"}, nil, 2, "", "descriptor 5 is not open"},
		{nil, []string{"LISTEN_FDS=3"}, 2, "", "descriptor 5 is not open"},
		{[]string{"--preserve-fds=-1"}, nil, 2, "", "-1"},
		{[]string{"--preserve-fds=x"}, nil, 2, "", "whole number"},
		{nil, []string{"LISTEN_FDS=x"}, 2, "", "LISTEN_FDS"},
	} {
		t.Run(fmt.Sprint(c.flags, c.env, c.files), func(t *testing.T) {
			w.t = t
			with := func(args ...string) result {
				cmd := w.command(args...)
				cmd.Env = append(cmd.Env, c.env...)
				for i := range c.files {
					f := text(fmt.Sprintf("file %d\n", 3+i))
					defer f.Close()
					cmd.ExtraFiles = append(cmd.ExtraFiles, f)
				}
				return w.finish(cmd)
			}
			check := func(what string, r result, code int) {
				t.Helper()
				if c.err == "" && (r.code != 0 || strings.TrimSpace(r.out) != c.want) {
					t.Errorf("%s: %s, want %q", what, r, c.want)
				}
				if c.err != "" && (r.code != code || !strings.Contains(r.err, c.err)) {
					t.Errorf("%s: %s, want the error %q", what, r, c.err)
				}
			}
			args := append([]string{"--bundle", w.bundle(nil, "sh", "-c", script)}, c.flags...)
			check("run", with(append(append([]string{"run"}, args...), w.name())...), 1)
			id := w.started(w.bundle(nil, "sleep", "100"))
			check("exec", with(append(append([]string{"exec"}, c.flags...), id, "sh", "-c", script)...), 255)
			w.must("delete", "--force", id)
			if c.err == "" { // create: they wait with the container
				id = w.name()
				out := w.file()
				cmd := w.command(append(append([]string{"create"}, args...), id)...)
				cmd.Env, cmd.Stdout = append(cmd.Env, c.env...), out
				for i := range c.files {
					cmd.ExtraFiles = append(cmd.ExtraFiles, text(fmt.Sprintf("file %d\n", 3+i)))
				}
				if r := w.finish(cmd); r.code != 0 {
					t.Errorf("create: %s", r)
				}
				w.must("start", id)
				w.becomes(id, "stopped")
				w.must("delete", id)
				if got := strings.TrimSpace(w.read(out.Name())); got != c.want {
					t.Errorf("create and start: %q, want %q", got, c.want)
				}
			}
		})
	}
	w.t = t
}

// TestForegroundTerminal: run on a terminal is like a login: size, raw mode, signals by keys, changes of size; the caller's terminal is as before after.
func TestForegroundTerminal(t *testing.T) {
	for name, verb := range map[string]func(w *world) []string{
		"run": func(w *world) []string {
			return []string{"run", "--bundle", w.bundle(withTerminal, "sh", "-c", script), w.name()}
		},
		"exec": func(w *world) []string {
			id := w.started(w.bundle(nil, "sleep", "100"))
			return []string{"exec", "--tty", id, "sh", "-c", script}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			x, slave := newTerminal(t)
			before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			cmd := w.command(verb(w)...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			x.expect("tty /dev/pts/0 24 80")
			if raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || raw.Lflag&(unix.ICANON|unix.ISIG|unix.ECHO) != 0 {
				t.Errorf("the terminal is not raw: %v", err)
			}
			resize(t, int(x.master.Fd()), 40, 100)
			x.expect("winch 40 100")
			x.send("\x03")
			x.expect("interrupted")
			x.send("a word\r")
			x.expect("read a word")
			if err := waitFor(cmd); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(cmd); code != 9 {
				t.Errorf("exit code %d", code)
			}
			after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil || *after != *before {
				t.Errorf("the terminal is not as before: %+v, %+v, %v", before, after, err)
			}
			for _, id := range strings.Fields(w.must("list", "-q")) {
				w.must("delete", "--force", id)
			}
		})
	}
}

const script = `trap 'echo winch $(stty size)' WINCH; trap 'echo interrupted' INT; echo tty $(tty) $(stty size)
while :; do if read -r x; then echo "read $x"; exit 9; fi; done`

// waitFor waits for a command's end, twenty seconds at most.
func waitFor(cmd *exec.Cmd) error {
	done := make(chan bool)
	go func() {
		cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(patience):
		cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s: no end after %s", strings.Join(cmd.Args, " "), patience)
	}
}

// TestStreams: standard input, its end, and both outputs go through; a caller that closes its end is noticed.
func TestStreams(t *testing.T) {
	w := newWorld(t)
	cmd := w.command("run", "--bundle", w.bundle(nil, "sh", "-c", "cat; echo error >&2"), w.name())
	cmd.Stdin = strings.NewReader("some input\n")
	if r := w.finish(cmd); r.code != 0 || r.out != "some input\n" || r.err != "error\n" {
		t.Errorf("run: %s", r)
	}
	id := w.started(w.bundle(nil, "sleep", "100"))
	cmd = w.command("exec", id, "wc", "-c")
	cmd.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
	if r := w.finish(cmd); strings.TrimSpace(r.out) != "1048576" {
		t.Errorf("exec: %s", r)
	}
	began := time.Now()
	w.must("exec", "--detach", id, "sleep", "99")
	if d := time.Since(began); d > soon {
		t.Errorf("exec --detach took %s", d)
	}
	w.must("delete", "--force", id)
}

// TestSignalsPassOn: run and exec hand signals to the command.
func TestSignalsPassOn(t *testing.T) {
	w := newWorld(t)
	const wait = `for s in HUP INT TERM USR1 USR2 QUIT; do trap "echo $s" $s; done; trap 'exit 5' WINCH; echo ready; while :; do sleep 0.05; done`
	sleeper := w.started(w.bundle(nil, "sleep", "100"))
	for name, args := range map[string][]string{
		"run": {"run", "--bundle", w.bundle(nil, "sh", "-c", wait), w.name()}, "exec": {"exec", sleeper, "sh", "-c", wait},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			cmd := w.command(args...)
			out := w.file()
			cmd.Stdout = out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			want := "ready\n"
			expect := func() {
				t.Helper()
				if err := eventually(func() error {
					if got := w.read(out.Name()); got != want {
						return fmt.Errorf("it wrote %q, want %q", got, want)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
			expect()
			for _, s := range []struct {
				sig  syscall.Signal
				name string
			}{{unix.SIGHUP, "HUP"}, {unix.SIGINT, "INT"}, {unix.SIGTERM, "TERM"}, {unix.SIGUSR1, "USR1"}, {unix.SIGUSR2, "USR2"}, {unix.SIGQUIT, "QUIT"}} {
				cmd.Process.Signal(s.sig)
				want += s.name + "\n"
				expect()
			}
			cmd.Process.Signal(unix.SIGWINCH)
			if err := waitFor(cmd); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(cmd); code != 5 {
				t.Errorf("exit code %d, want 5", code)
			}
		})
	}
	w.t = t
	w.must("delete", "--force", sleeper)
}

// TestKeepAndDetach: --keep leaves a stopped container behind, --detach a running one, with its number in --pid-file.
func TestKeepAndDetach(t *testing.T) {
	w := newWorld(t)
	id := w.name()
	if r := w.run("run", "--keep", "--bundle", w.bundle(nil, "sh", "-c", "exit 3"), id); r.code != 3 {
		t.Errorf("run --keep: %s", r)
	}
	if s := w.state(id).Status; s != "stopped" {
		t.Errorf("kept, it is %s", s)
	}
	w.must("delete", id)
	w.must("run", "--detach", "--pid-file", w.dir+"/pid", "--bundle", w.bundle(nil, "sleep", "100"), id)
	if s := w.state(id); s.Status != "running" || w.read(w.dir+"/pid") != fmt.Sprint(s.Pid) {
		t.Errorf("detached, it is %+v; pid file %s", s, w.read(w.dir+"/pid"))
	}
	w.must("delete", "--force", id)
}
