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

// one runs what a connection asks for to its end.
func (s *sandbox) one(c *net.UnixConn) wire.Outcome {
	pid, terminal, err := s.begin(c)
	if err != nil {
		o := wire.Outcome{Error: err.Error(), Code: exitFailed}
		var f failure
		if errors.As(err, &f) {
			o.Code = uint32(f.code)
		}
		return o
	}
	var ended atomic.Bool // then its number may be another's
	go func() {
		var b [16]byte
		for {
			n, err := c.Read(b[:])
			if ended.Load() {
				return
			}
			if err != nil || n != 1 {
				_ = s.c.Sandbox.SignalProcess(sandboxID, pid, unix.SIGKILL, false) // it is ending
				return
			}
			sig := syscall.Signal(b[0])
			_ = s.c.Sandbox.SignalProcess(sandboxID, pid, sig, terminal && fromTerminal(sig))
		}
	}()
	ws, err := s.c.Sandbox.WaitPID(sandboxID, pid)
	ended.Store(true)
	if err != nil {
		return wire.Outcome{Error: err.Error(), Code: exitFailed}
	}
	return wire.Outcome{Status: uint32(ws)}
}

// begin starts the process that a connection's first message asks for.
func (s *sandbox) begin(c *net.UnixConn) (pid int32, terminal bool, err error) {
	oob := make([]byte, unix.CmsgSpace(wire.JoinFiles*4))
	_, oobn, _, _, err := c.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return 0, false, err
	}
	files, err := received(oob[:oobn])
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return 0, false, err
	}
	if len(files) != wire.JoinFiles {
		return 0, false, fmt.Errorf("exec: %d descriptors came, not %d", len(files), wire.JoinFiles)
	}
	asked, err := io.ReadAll(io.NewSectionReader(files[3], 0, wire.MaxExec))
	if err != nil {
		return 0, false, fmt.Errorf("exec: %w", err)
	}
	var x wire.Exec
	if err := json.Unmarshal(asked, &x); err != nil {
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
		FilePayload: control.NewFilePayload(map[int]*os.File{0: files[0], 1: files[1], 2: files[2]}, nil),
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
