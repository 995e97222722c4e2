package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/specutils"

	"brig/internal/runtime/boxed/wire"
)

// listen opens the socket on which further processes are asked for.
func listen() (*net.UnixListener, error) {
	return net.ListenUnix("unixpacket", &net.UnixAddr{Name: wire.JoinSocket, Net: "unixpacket"})
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
			_, _ = c.Write(s.one(c).Encode()) // who asked may have gone
		}()
	}
}

// one does what a connection asks for, to its end.
func (s *sandbox) one(c *net.UnixConn) wire.Outcome {
	x, streams, err := request(c)
	defer func() {
		for _, f := range streams {
			f.Close()
		}
	}()
	if err == nil && x.Ask != "" {
		if err = s.answer(x.Ask, streams); err == nil {
			return wire.Outcome{}
		}
	}
	var pid int32
	if err == nil {
		pid, err = s.begin(x, streams)
	}
	if err != nil {
		o := wire.Outcome{Error: err.Error(), Code: exitFailed}
		var f failure
		if errors.As(err, &f) {
			o.Code = uint32(f.code)
		}
		return o
	}
	terminal := x.Process.Terminal
	var ended atomic.Bool // then its number may be another's
	go func() {
		var b [16]byte
		for {
			n, err := c.Read(b[:])
			if ended.Load() {
				return
			}
			if err != nil || n != 1 {
				_ = s.c.Sandbox.SignalProcess(s.c.ID, pid, unix.SIGKILL, false) // it is ending
				return
			}
			sig := syscall.Signal(b[0])
			_ = s.c.Sandbox.SignalProcess(s.c.ID, pid, sig, terminal && fromTerminal(sig))
		}
	}()
	ws, err := s.c.Sandbox.WaitPID(s.c.ID, pid)
	ended.Store(true)
	if err != nil {
		return wire.Outcome{Error: err.Error(), Code: exitFailed}
	}
	return wire.Outcome{Status: uint32(ws)}
}

// request reads a connection's first message. The files are the caller's to close, also with an error.
func request(c *net.UnixConn) (x wire.Exec, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(wire.JoinFiles*4))
	_, oobn, _, _, err := c.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return x, nil, err
	}
	files, err = received(oob[:oobn])
	if err != nil {
		return x, files, err
	}
	if len(files) != wire.JoinFiles {
		return x, files, fmt.Errorf("exec: %d descriptors came, not %d", len(files), wire.JoinFiles)
	}
	asked, err := io.ReadAll(io.NewSectionReader(files[3], 0, wire.MaxExec))
	if err != nil {
		return x, files, fmt.Errorf("exec: %w", err)
	}
	if err := json.Unmarshal(asked, &x); err != nil {
		return x, files, fmt.Errorf("exec: %w", err)
	}
	if x.Ask == "" && (x.Process == nil || len(x.Process.Args) == 0) {
		return x, files, errors.New("exec: there is no command")
	}
	return x, files, nil
}

// answer does what else is asked for than a process.
func (s *sandbox) answer(ask string, streams []*os.File) error {
	switch ask {
	case wire.AskCheckpoint:
		return s.checkpoint(streams[0], streams[1])
	case wire.AskProcesses:
		list, err := s.processes()
		if err != nil {
			return err
		}
		return json.NewEncoder(streams[1]).Encode(list)
	}
	return fmt.Errorf("this monitor does not know %q", ask)
}

// begin starts a process.
func (s *sandbox) begin(x wire.Exec, streams []*os.File) (pid int32, err error) {
	p := x.Process
	root, err := unix.Open(wire.RootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = as(p, x.User, root)
	unix.Close(root)
	if err != nil {
		return 0, err
	}
	rights := p.Capabilities
	if rights == nil {
		rights = s.spec.Process.Capabilities
	}
	caps, err := specutils.Capabilities(s.conf.EnableRaw, rights)
	if err != nil {
		return 0, err
	}
	args := &control.ExecArgs{
		Argv: p.Args, Envv: p.Env, WorkingDirectory: p.Cwd,
		KUID: auth.KUID(p.User.UID), KGID: auth.KGID(p.User.GID), Capabilities: caps,
		StdioIsPty: p.Terminal, ContainerID: s.c.ID,
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
		return 0, cause(err, p)
	}
	return pid, nil
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
