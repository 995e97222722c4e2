package oci

import (
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/runtime/oci"
)

// run is `brig-oci run [-b DIR] ID`: create, start, wait, delete.
func run(g *globals, args []string, stdio [3]*os.File) (int, error) {
	bundle, id, err := runArgs(args)
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return 0, api.Errorf(api.InvalidArgument, "bundle %s: %w", bundle, err)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return 0, api.Errorf(api.InvalidArgument, "%s/config.json: %w", bundle, err)
	}
	if spec.Root == nil {
		return 0, api.Errorf(api.InvalidArgument, "%s/config.json: root is missing", bundle)
	}
	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	if err := os.MkdirAll(g.root, 0o700); err != nil {
		return 0, err
	}
	held, err := lock.Try(filepath.Join(g.root, id))
	if err != nil {
		return 0, api.Errorf(api.AlreadyExists, "container %s exists already", id)
	}
	defer func() {
		os.Remove(filepath.Join(g.root, id))
		held.Release()
	}()
	req := &oci.Request{ID: id, Spec: spec, Bundle: bundle, RootPath: root, MountPoint: root, NetNS: -1, Stdio: [3]int{0, 1, 2}}
	c, err := oci.Create(req)
	if err != nil {
		return 0, err
	}
	defer c.Cgroup.Remove()
	if err := c.Start(); err != nil {
		c.Reap()
		return 0, err
	}
	signals := make(chan os.Signal, 32)
	signal.Notify(signals)
	go func() {
		for s := range signals {
			if sig, ok := s.(unix.Signal); ok && sig != unix.SIGCHLD && sig != unix.SIGURG && sig != unix.SIGPIPE {
				unix.PidfdSendSignal(c.PidFD, sig, nil, 0)
			}
		}
	}()
	shown := make(chan struct{})
	if c.Console != nil {
		restore := rawTerminal(stdio[0], c.Console)
		defer restore()
		go func() { _, _ = io.Copy(c.Console, stdio[0]) }()
		go func() {
			_, _ = io.Copy(stdio[1], c.Console)
			close(shown)
		}()
	} else {
		close(shown)
	}
	exit, err := c.Reap()
	c.Cgroup.Kill(unix.SIGKILL)
	<-shown // the console may have held output still
	return exit.Code, err
}

func runArgs(args []string) (bundle, id string, err error) {
	bundle = "."
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		switch {
		case (args[0] == "-b" || args[0] == "--bundle") && len(args) > 1:
			bundle, args = args[1], args[2:]
		case len(args[0]) > 9 && args[0][:9] == "--bundle=":
			bundle, args = args[0][9:], args[1:]
		default:
			return "", "", api.Errorf(api.InvalidArgument, "run: flag %s is not known to this version: see brig-oci help", args[0])
		}
	}
	if len(args) != 1 || args[0] == "" || args[0] == "." || args[0] == ".." || filepath.Base(args[0]) != args[0] {
		return "", "", api.Errorf(api.InvalidArgument, "run takes one container ID, without slashes")
	}
	bundle, err = filepath.Abs(bundle)
	return bundle, args[0], err
}

// rawTerminal puts the caller's terminal into raw mode, with its size passed on, and returns what restores it.
func rawTerminal(in, console *os.File) func() {
	fd := int(in.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	if w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(int(console.Fd()), unix.TIOCSWINSZ, w)
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	unix.IoctlSetTermios(fd, unix.TCSETS, &raw)
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }
}
