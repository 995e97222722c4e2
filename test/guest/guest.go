// Package guest gives tests a second machine: Debian 12 with cgroup v2, systemd and CRIU on Debian's own kernel, under QEMU.
//
// `make guest` builds it once (Build): a root file system by mmdebstrap, a kernel of a Debian package that is unpacked and never
// installed, a small initramfs; it boots them to an agent that answers, and saves the running machine. Start restores it in under a
// second. Each user has a clone of its own: memory is the saved file mapped copy-on-write, the disk an overlay that has no name. Clones
// hang on the process that started them, by its death signal, and nothing is left of them on the machine.
//
// The agent (package wire) runs commands and takes files over a virtio-serial port: the guest has no network. Where /dev/kvm boots a
// Debian kernel it is used; elsewhere QEMU translates (TCG), some twenty times slower than the machine.
//
// Rerun lets a Go test run itself in the guest, Run lets it run the tests of other packages there, and `make test-guest` runs those that
// look different on another kernel.
package guest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/guest/wire"
)

// ErrMissing is wrapped by the errors of a machine that has no guest: no QEMU, or no snapshot yet.
var ErrMissing = errors.New("no test guest here")

// patience is how long a restored guest may take to its first answer: usually 0.3 s, more where all cores are busy.
const patience = 60 * time.Second

// Guest is a running machine.
type Guest struct {
	*wire.Client
	vm *vm
}

// Start restores the snapshot, and returns when the agent has answered, has this machine's time and randomness of its own. The guest
// ends with Close, or with this process.
func Start(ctx context.Context) (*Guest, error) {
	img, err := Find()
	if err != nil {
		return nil, err
	}
	return img.start(ctx, nil)
}

// StartWith is Start with the files of a tar archive, which write writes, unpacked below /. It is the quick way for many or large ones:
// Put moves 10 MB a second, this a hundred.
func StartWith(ctx context.Context, write func(*tar.Writer) error) (*Guest, error) {
	img, err := Find()
	if err != nil {
		return nil, err
	}
	payload, err := newPayload(write)
	if err != nil {
		return nil, err
	}
	defer payload.Close()
	g, err := img.start(ctx, payload)
	if err != nil {
		return nil, err
	}
	// The kernel has looked at the empty disk before the machine was saved, and may remember.
	if _, err := g.Output(ctx, "/bin/sh", "-c", "blockdev --flushbufs "+payloadDevice+" && tar -xf "+payloadDevice+" -C /"); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

const payloadDevice = "/dev/vdb"

// newPayload makes the disk of a StartWith: memory without a name.
func newPayload(write func(*tar.Writer) error) (*os.File, error) {
	fd, err := unix.MemfdCreate("payload", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "payload")
	w := bufio.NewWriterSize(f, 1<<20)
	archive := tar.NewWriter(w)
	err = write(archive)
	if err == nil {
		err = errors.Join(archive.Close(), w.Flush())
	}
	if err == nil {
		size, _ := f.Seek(0, io.SeekCurrent)
		if size > payloadSize {
			err = fmt.Errorf("files of %d MiB for the guest; its payload disk has %d", size>>20, payloadSize>>20)
		}
	}
	if err == nil {
		err = f.Truncate(payloadSize)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (img *Image) start(ctx context.Context, payload *os.File) (*Guest, error) {
	state, err := os.Open(img.path(stateFile))
	if err != nil {
		return nil, err
	}
	defer state.Close()
	files, disk := []*os.File{state}, emptyFile
	if payload != nil {
		files, disk = append(files, payload), fmt.Sprintf("/proc/self/fd/%d", payloadFd)
	}
	m, err := startVM(img.dir, img.restoreArgs(disk), files...)
	if err != nil {
		return nil, err
	}
	m.slow = img.accel == "tcg"
	g := &Guest{Client: wire.NewClient(m.agent), vm: m}
	if err := img.resume(m); err != nil {
		g.Close()
		return nil, fmt.Errorf("restore the test guest: %w%s", err, m.said())
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.Hello(ctx); err != nil {
		g.Close()
		return nil, fmt.Errorf("restore the test guest: %w%s", err, m.said())
	}
	return g, nil
}

// resume has a QEMU that was started for it load the saved state.
func (img *Image) resume(m *vm) error {
	if err := m.qmp.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	mon, err := newMonitor(m.qmp)
	if err != nil {
		return err
	}
	return mon.load()
}

// Close ends the guest at once.
func (g *Guest) Close() error { return g.vm.kill() }

// Console returns the end of what the guest's kernel and QEMU have written.
func (g *Guest) Console() string { return g.vm.console.String() }

// Output runs a command and returns what it wrote to standard output; an exit status other than 0 is an error with its standard error.
func (g *Guest) Output(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	code, err := g.Client.Run(ctx, wire.Command{Args: args}, wire.IO{Out: &out, Err: &errs})
	if err == nil && code != 0 {
		err = fmt.Errorf("guest: %q: exit status %d: %s", args, code, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), err
}

// vm is one QEMU process.
type vm struct {
	cmd     *exec.Cmd
	agent   *os.File // the other end of the agent's port
	qmp     *os.File // of QEMU's monitor
	console *tail
	slow    bool          // it is translated
	ended   chan struct{} // closed when the process is gone
}

// Descriptors of QEMU, as startVM lays them out and the arguments name them.
const (
	agentFd   = 3
	qmpFd     = 4
	stateFd   = 5 // the saved machine, of a restore
	payloadFd = 6
)

// startVM starts QEMU in folder dir. Its process is killed when this one dies.
func startVM(dir string, args []string, extra ...*os.File) (*vm, error) {
	agent, agentEnd, err := socketPair("agent")
	if err != nil {
		return nil, err
	}
	qmp, qmpEnd, err := socketPair("qmp")
	if err != nil {
		agent.Close()
		agentEnd.Close()
		return nil, err
	}
	defer agentEnd.Close()
	defer qmpEnd.Close()
	m := &vm{cmd: exec.Command(program, args...), agent: agent, qmp: qmp, console: &tail{}, ended: make(chan struct{})}
	m.cmd.Dir = dir
	m.cmd.ExtraFiles = append([]*os.File{agentEnd, qmpEnd}, extra...)
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The death signal comes when the thread that forked ends (prctl(2)): keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.cmd.Wait()
			agent.Close() // a client that reads it learns that there is nobody
			close(m.ended)
		}
	}()
	if err := <-started; err != nil {
		agent.Close()
		qmp.Close()
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	return m, nil
}

func (m *vm) kill() error {
	m.cmd.Process.Kill()
	<-m.ended
	return m.qmp.Close()
}

// said is the end of the console, for an error.
func (m *vm) said() string {
	if s := m.console.String(); s != "" {
		return "; QEMU and the console say:\n" + s
	}
	return ""
}

// socketPair returns two connected ends: one of this process, pollable, and one to hand on.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+" of QEMU"), nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
