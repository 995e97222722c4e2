package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"brig/api"
)

// childEnv makes the test program a brig whose engine is echoEngine.
const childEnv = "BRIG_CLI_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(Main(context.Background(), os.Args[1:], OSStreams(), func(Options) Engine { return &echoEngine{} }))
	}
	os.Exit(m.Run())
}

// echoEngine has one container, with a terminal, that says what it is told: bytes, sizes and signals. The byte q ends it with 7,
// p makes the engine panic. Creating a container takes for ever.
type echoEngine struct{ fake }

func (e *echoEngine) Run(_ context.Context, _ api.ContainerSpec, a *api.Attach, _ api.Streams) (api.Container, *api.Session, error) {
	return api.Container{ID: testID}, e.echo(a), nil
}

func (e *echoEngine) Inspect(context.Context, string) (api.Container, error) {
	return api.Container{ID: testID, Spec: api.ContainerSpec{TTY: true, Interactive: true}}, nil
}

func (e *echoEngine) Attach(_ context.Context, _ string, a api.Attach) (*api.Session, error) {
	return e.echo(&a), nil
}

func (e *echoEngine) Create(ctx context.Context, _ api.ContainerSpec, out api.Streams) (api.Container, error) {
	fmt.Fprintln(out.Stderr, "pulling")
	<-ctx.Done()
	time.Sleep(10 * time.Millisecond) // undoing
	fmt.Fprintln(out.Stderr, "undone")
	return api.Container{}, ctx.Err()
}

func (e *echoEngine) echo(a *api.Attach) *api.Session {
	out := a.Streams.Stdout
	fmt.Fprintf(out, "size %dx%d\n", a.Size.Rows, a.Size.Cols)
	return &api.Session{
		Resize: func(s api.WindowSize) error { fmt.Fprintf(out, "resize %dx%d\n", s.Rows, s.Cols); return nil },
		Signal: func(s syscall.Signal) error { fmt.Fprintf(out, "signal %d\n", s); return nil },
		Wait: func(ctx context.Context) (api.Exit, error) {
			typed := make(chan byte)
			go func() {
				b := make([]byte, 1)
				for {
					if _, err := a.Streams.Stdin.Read(b); err != nil {
						return
					}
					typed <- b[0]
				}
			}()
			for {
				select {
				case b := <-typed:
					fmt.Fprintf(out, "byte %d\n", b)
					switch b {
					case 'q':
						return api.Exit{Code: 7}, nil
					case 'p':
						panic("bug in the engine")
					}
				case <-ctx.Done():
					return api.Exit{}, ctx.Err()
				}
			}
		},
	}
}

// child is a brig on a terminal of its own.
type child struct {
	t             *testing.T
	cmd           *exec.Cmd
	master, slave *os.File
	lines         chan string
}

// onOwnTerminal starts a brig as the leader of a session with a controlling terminal, as a login shell's.
func onOwnTerminal(t *testing.T, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0], args...), lines: make(chan string, 64)}
	c.master, c.slave = openPTY(t)
	resize(t, c.slave, 24, 80)
	c.cmd.Env = append(os.Environ(), childEnv+"=1")
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = c.slave, c.slave, c.slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill() })
	go func() {
		scan := bufio.NewScanner(c.master)
		for scan.Scan() {
			c.lines <- strings.TrimSpace(scan.Text())
		}
	}()
	return c
}

// await reads until a line of output ends with want; what the terminal echoes may stand before it.
func (c *child) await(want string) {
	c.t.Helper()
	for {
		if line := receive(c.t, c.lines); strings.HasSuffix(line, want) {
			return
		}
	}
}

// awaitRaw waits until the terminal is in raw mode: from then on nothing that is typed is a signal.
func (c *child) awaitRaw() {
	c.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !isRaw(c.t, c.slave); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatal("the terminal did not become raw in 5 s")
		}
	}
}

func (c *child) typeIn(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.master, text); err != nil {
		c.t.Fatal(err)
	}
}

// ends waits for the process and checks its exit code and terminal.
func (c *child) ends(code int) {
	c.t.Helper()
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.t.Errorf("code %d (%v), want %d", got, c.cmd.ProcessState, code)
	}
	if isRaw(c.t, c.slave) {
		c.t.Error("the terminal is left raw")
	}
}

func TestProcessOnTerminal(t *testing.T) {
	c := onOwnTerminal(t, "run", "-it", "img")
	c.await("size 24x80")
	c.awaitRaw()
	c.typeIn("\x03\x1a")
	c.await("byte 3")
	c.await("byte 26")
	resize(t, c.master, 30, 90) // the kernel tells the foreground processes
	c.await("resize 30x90")
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.await("signal 15")
	c.typeIn("q")
	c.ends(7)
}

func TestProcessKilledOnTerminal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) { // the tests run under nohup: so does brig, which then ignores it
			continue
		}
		c := onOwnTerminal(t, "attach", "c")
		c.await("size 24x80")
		c.awaitRaw()
		if err := c.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		c.ends(signalCode(sig))
	}
}

func TestProcessPanicOnTerminal(t *testing.T) {
	c := onOwnTerminal(t, "run", "-it", "img")
	c.awaitRaw()
	c.typeIn("p")
	c.await("panic: bug in the engine")
	go func() { // the trace must not fill the terminal
		for range c.lines {
		}
	}()
	c.ends(2)
}

func TestProcessInterrupted(t *testing.T) {
	c := onOwnTerminal(t, "create", "img")
	c.await("pulling")
	c.typeIn("\x03") // an ordinary terminal makes a signal of it
	c.await("undone")
	c.ends(130)
}

func TestProcessOnPipes(t *testing.T) {
	cmd := exec.Command(os.Args[0], "run", "-it", "img")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdin = strings.NewReader("q")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(string(out), "brig: the input device is not a TTY\n") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestProcessUnderNohup shows that a signal which the parent ignores stays ignored.
func TestProcessUnderNohup(t *testing.T) {
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec "$0" create img`, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(errs).ReadString('\n'); line != "pulling\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	time.Sleep(50 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 143 {
		t.Errorf("code %d (%v), want 143: SIGHUP should have been ignored", got, cmd.ProcessState)
	}
}
