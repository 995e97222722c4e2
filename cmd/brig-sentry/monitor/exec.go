package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/specutils"

	"brig/internal/runtime/boxed/wire"
)

// A further execution of the monitor says what to run in one message with its three streams as descriptors, then a message of one number for each signal that it gets. It is told
// an outcome when the process has ended, or could not be started. When it goes before that, the process inside is killed: it is one.

// maxRequest bounds a message, in bytes: the length of an environment variable.
const maxRequest = 256 << 10

// outcome is how a further process ended.
type outcome struct {
	Status int    `json:"status"` // as wait(2) gives it
	Error  string `json:"error,omitempty"`
	Code   int    `json:"code,omitempty"` // the exit status that goes with Error
}

// startLimit is how long a further process waits for the first to be there.
const startLimit = 20 * time.Second

// listen opens the socket on which further processes are asked for.
func listen() (*net.UnixListener, error) {
	return net.ListenUnix("unixpacket", &net.UnixAddr{Name: socketPath, Net: "unixpacket"})
}

// serve runs what is asked for as long as this process lives.
func (s *sandbox) serve(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			data, _ := json.Marshal(s.one(c))
			_, _ = c.Write(data) // who asked may have gone
		}()
	}
}

// one runs what a connection asks for to its end.
func (s *sandbox) one(c *net.UnixConn) outcome {
	pid, terminal, err := s.begin(c)
	if err != nil {
		o := outcome{Error: err.Error(), Code: exitFailed}
		var f failure
		if errors.As(err, &f) {
			o.Code = f.code
		}
		return o
	}
	go func() {
		var b [16]byte
		for {
			n, err := c.Read(b[:])
			if err != nil || n != 1 {
				_ = s.c.Sandbox.SignalProcess(sandboxID, pid, unix.SIGKILL, false) // it may have ended
				return
			}
			sig := syscall.Signal(b[0])
			_ = s.c.Sandbox.SignalProcess(sandboxID, pid, sig, terminal && fromTerminal(sig))
		}
	}()
	ws, err := s.c.Sandbox.WaitPID(sandboxID, pid)
	if err != nil {
		return outcome{Error: err.Error(), Code: exitFailed}
	}
	return outcome{Status: int(ws)}
}

// begin starts the process that a connection's first message asks for.
func (s *sandbox) begin(c *net.UnixConn) (pid int32, terminal bool, err error) {
	buf, oob := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, false, err
	}
	streams, err := received(oob[:oobn])
	defer func() {
		for _, f := range streams {
			f.Close()
		}
	}()
	if err != nil {
		return 0, false, err
	}
	if len(streams) != 3 {
		return 0, false, fmt.Errorf("exec: %d streams came, not 3", len(streams))
	}
	var x wire.Exec
	if err := json.Unmarshal(buf[:n], &x); err != nil {
		return 0, false, fmt.Errorf("exec: %w", err)
	}
	p := x.Process
	if p == nil || len(p.Args) == 0 {
		return 0, false, errors.New("exec: there is no command")
	}
	root, err := unix.Open(wire.RootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false, err
	}
	err = as(p, x.User, root)
	unix.Close(root)
	if err != nil {
		return 0, false, err
	}
	rights := p.Capabilities
	if rights == nil {
		rights = s.spec.Process.Capabilities
	}
	caps, err := specutils.Capabilities(s.conf.EnableRaw, rights)
	if err != nil {
		return 0, false, err
	}
	args := &control.ExecArgs{
		Argv: p.Args, Envv: p.Env, WorkingDirectory: p.Cwd,
		KUID: auth.KUID(p.User.UID), KGID: auth.KGID(p.User.GID), Capabilities: caps,
		StdioIsPty: p.Terminal, ContainerID: sandboxID,
		FilePayload: control.NewFilePayload(map[int]*os.File{0: streams[0], 1: streams[1], 2: streams[2]}, nil),
	}
	for _, g := range p.User.AdditionalGids {
		args.ExtraKGIDs = append(args.ExtraKGIDs, auth.KGID(g))
	}
	if args.WorkingDirectory == "" {
		args.WorkingDirectory = s.spec.Process.Cwd
	}
	pid, err = s.c.Sandbox.Execute(s.conf, args)
	if err != nil {
		return 0, false, cause(err, p)
	}
	return pid, p.Terminal, nil
}

// received are the descriptors that came with a message.
func received(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	return files, nil
}

// dial connects to the monitor, which may have been executed just now.
func dial() (*net.UnixConn, error) {
	for end := time.Now().Add(startLimit); ; time.Sleep(2 * time.Millisecond) {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketPath, Net: "unixpacket"})
		if err == nil || time.Now().After(end) {
			return c, err
		}
	}
}

// join is a further execution of the monitor: it asks the first for a process and ends as that does.
func join() (int, error) {
	signals := catch()
	c, err := dial()
	if err != nil {
		return 0, fmt.Errorf("the container's monitor does not answer: %w", err)
	}
	request := []byte(os.Getenv(wire.ExecVar))
	if len(request) > maxRequest {
		return 0, failure{fmt.Errorf("exec: arguments and environment have %d bytes, and %d is the limit", len(request), maxRequest), exitNotRunnable}
	}
	if _, _, err := c.WriteMsgUnix(request, unix.UnixRights(0, 1, 2), nil); err != nil {
		return 0, err
	}
	go func() {
		for sig := range signals {
			n := sig.(syscall.Signal)
			switch n {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
				continue
			}
			_, _ = c.Write([]byte{byte(n)})
		}
	}()
	buf := make([]byte, maxRequest)
	n, err := c.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if n == 0 {
		return 128 + int(unix.SIGKILL), nil // the container has ended
	}
	var o outcome
	if err := json.Unmarshal(buf[:n], &o); err != nil {
		return 0, err
	}
	if o.Error != "" {
		return 0, failure{errors.New(o.Error), o.Code}
	}
	ws := unix.WaitStatus(o.Status)
	if ws.Signaled() { // die of the same
		signal.Reset()
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		_ = unix.Kill(os.Getpid(), ws.Signal())
	}
	return status(ws), nil
}
