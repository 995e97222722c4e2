package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/guest/wire"
)

// fakeClocks notes what a greeting asks for.
type fakeClocks struct {
	mu    sync.Mutex
	times []int64
	seeds []string
}

func (f *fakeClocks) setClock(ns int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.times = append(f.times, ns)
	return nil
}

func (f *fakeClocks) reseed(seed []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seeds = append(f.seeds, string(seed))
	return nil
}

// pair returns a client and the raw end that it writes to, with a server of this process behind it.
func pair(t *testing.T) (*wire.Client, net.Conn, *fakeClocks) {
	t.Helper()
	host, guest := net.Pipe()
	clocks := &fakeClocks{}
	done := make(chan struct{})
	go func() {
		newServer(guest, clocks).serve()
		close(done)
	}()
	t.Cleanup(func() {
		host.Close()
		<-done
	})
	return wire.NewClient(host), host, clocks
}

func TestRun(t *testing.T) {
	c, _, _ := pair(t)
	for name, tc := range map[string]struct {
		cmd       wire.Command
		in        string
		out, errs string
		code      int
	}{
		"streams and status": {cmd: wire.Command{Args: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}}, out: "out\n", errs: "err\n", code: 7},
		"input to its end":   {cmd: wire.Command{Args: []string{"cat"}}, in: strings.Repeat("0123456789", 100_000), out: strings.Repeat("0123456789", 100_000)},
		"env and dir":        {cmd: wire.Command{Args: []string{"sh", "-c", "echo $A; pwd"}, Env: []string{"A=b c"}, Dir: "/usr"}, out: "b c\n/usr\n"},
		"a signal":           {cmd: wire.Command{Args: []string{"sh", "-c", "kill -TERM $$"}}, code: 128 + 15},
		"input not read":     {cmd: wire.Command{Args: []string{"true"}}, in: strings.Repeat("x", 4<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code, err := c.Run(t.Context(), tc.cmd, wire.IO{In: strings.NewReader(tc.in), Out: &out, Err: &errs})
			if err != nil || code != tc.code {
				t.Errorf("code %d, %v; want %d", code, err, tc.code)
			}
			if out.String() != tc.out || errs.String() != tc.errs {
				t.Errorf("out %.80q, err %.80q; want %.80q, %.80q", out.String(), errs.String(), tc.out, tc.errs)
			}
		})
	}
}

func TestRunWhatIsNotThere(t *testing.T) {
	c, _, _ := pair(t)
	for _, args := range [][]string{{"/no/such/program"}, {}} {
		_, err := c.Run(t.Context(), wire.Command{Args: args}, wire.IO{})
		if err == nil {
			t.Errorf("%q ran", args)
		}
	}
}

func TestTerminal(t *testing.T) {
	c, _, _ := pair(t)
	var out bytes.Buffer
	code, err := c.Run(t.Context(), wire.Command{
		Args: []string{"sh", "-c", "test -t 0 && stty size && read x && echo got $x"}, Size: &wire.Size{Rows: 33, Columns: 101},
	}, wire.IO{In: strings.NewReader("word\n"), Out: &out})
	if err != nil || code != 0 {
		t.Fatal(code, err, out.String())
	}
	if !strings.Contains(out.String(), "33 101\r\n") || !strings.Contains(out.String(), "got word\r\n") {
		t.Errorf("output %q", out.String())
	}
}

// TestABusyCommandHoldsUpNobody: input that is not read fills its own window only.
func TestABusyCommandHoldsUpNobody(t *testing.T) {
	c, _, _ := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := c.Run(ctx, wire.Command{Args: []string{"sleep", "1000"}}, wire.IO{In: strings.NewReader(strings.Repeat("x", 8<<20))})
		ended <- err
	}()
	for range 20 {
		var out bytes.Buffer
		if _, err := c.Run(t.Context(), wire.Command{Args: []string{"cat"}}, wire.IO{In: strings.NewReader("here"), Out: &out}); err != nil || out.String() != "here" {
			t.Fatalf("%q, %v", out.String(), err)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(8 * time.Second):
		t.Error("not killed at the context's end")
	}
}

func TestPut(t *testing.T) {
	c, _, _ := pair(t)
	path := filepath.Join(t.TempDir(), "a/b/file")
	content := bytes.Repeat([]byte("content "), 200_000)
	for range 2 { // the second replaces
		if err := c.Put(wire.File{Path: path, Mode: 0o750}, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v; want %d", len(got), err, len(content))
		}
		if info, _ := os.Stat(path); info.Mode() != 0o750 {
			t.Errorf("mode %v", info.Mode())
		}
		content = []byte("short")
	}
	if err := c.Put(wire.File{Path: "/proc/none/file"}, bytes.NewReader(content)); err == nil {
		t.Error("a file in /proc")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".put*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestHelloSetsClockAndRandomness(t *testing.T) {
	c, _, clocks := pair(t)
	before := time.Now().UnixNano()
	for range 2 {
		if err := c.Hello(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if clocks.times[0] < before || clocks.times[1] < clocks.times[0] {
		t.Errorf("times %d, begun at %d", clocks.times, before)
	}
	if len(clocks.seeds[0]) < 32 || clocks.seeds[0] == clocks.seeds[1] {
		t.Errorf("seeds %q", clocks.seeds)
	}
}

// TestANewSessionAfterABrokenOne: half a frame and a running command of a host that is gone.
func TestANewSessionAfterABrokenOne(t *testing.T) {
	host, guest := net.Pipe()
	defer host.Close()
	go newServer(guest, &fakeClocks{}).serve()
	first := wire.NewConn(host)
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := first.WriteJSON(wire.Run, 1, wire.Command{Args: []string{"sh", "-c", "echo $$ >" + pidFile + ".new; mv " + pidFile + ".new " + pidFile + "; sleep 1000"}}); err != nil {
		t.Fatal(err)
	}
	var pid string
	for end := time.Now().Add(10 * time.Second); pid == "" && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(pidFile)
		pid = strings.TrimSpace(string(b))
	}
	if pid == "" {
		t.Fatal("the first command has not begun")
	}
	var broken bytes.Buffer
	wire.NewConn(&broken).Write(wire.Data, 1, make([]byte, 100))
	if _, err := host.Write(append([]byte("rubbish"), broken.Bytes()[:9]...)); err != nil {
		t.Fatal(err)
	}
	second := wire.NewClient(host)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := second.Hello(ctx); err != nil {
		t.Fatal(err)
	}
	if code, err := second.Run(ctx, wire.Command{Args: []string{"true"}}, wire.IO{}); code != 0 || err != nil {
		t.Error(code, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the first session's command runs on")
		}
	}
}

// TestPatientWaitsForAHost: a port without a host reads as an end of file.
func TestPatientWaitsForAHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0) // no writer: end of file
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(fd, false)
	p := patient{os.NewFile(uintptr(fd), path)}
	defer p.f.Close()
	go func() {
		time.Sleep(20 * time.Millisecond)
		for _, word := range []string{"one", "two"} {
			os.WriteFile(path, []byte(word), 0)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	buf := make([]byte, 6)
	if _, err := io.ReadFull(p, buf); err != nil || string(buf) != "onetwo" {
		t.Errorf("%q, %v", buf, err)
	}
}

func TestPort(t *testing.T) {
	class := t.TempDir()
	if _, err := port(class); err == nil {
		t.Error("a port in an empty folder")
	}
	for dev, name := range map[string]string{"vport1p1": "org.other", "vport2p1": portName} {
		if err := os.MkdirAll(filepath.Join(class, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, dev, "name"), []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if path, err := port(class); err != nil || path != "/dev/vport2p1" {
		t.Error(path, err)
	}
}
