package network

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/undo"
)

// slirpLimit is how long slirp4netns may take to answer.
const slirpLimit = 10 * time.Second

// startSlirp starts slirp4netns. It ends when the other end of a pipe is closed, which the sandbox holds as long as it lives.
func startSlirp(path string) func(*Manager, context.Context, carried) error {
	return func(m *Manager, ctx context.Context, to carried) error {
		for _, p := range to.ports {
			if p.Host.Addr().Is6() {
				return api.Errorf(api.Unsupported, "publish on [%s]: slirp4netns publishes on IPv4 only: install pasta (Debian's package passt), or leave the address out", p.Host.Addr())
			}
		}
		var u undo.Stack
		defer u.Run()
		exit, hold, err := os.Pipe()
		if err != nil {
			return err
		}
		u.Add(func() { hold.Close() }) // and slirp4netns ends
		defer exit.Close()
		ready, tell, err := os.Pipe()
		if err != nil {
			return err
		}
		defer ready.Close()
		socket := m.slirpSocket(to.id)
		_ = unix.Unlink(socket)
		args := []string{"--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--ready-fd=4", "--exit-fd=5", "--api-socket=" + socket}
		cmd := exec.Command(path, append(args, "--netns-type=path", "/proc/self/fd/3", to.name)...)
		cmd.ExtraFiles = []*os.File{to.link.NetNS, tell, exit}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		words, err := os.CreateTemp(m.path("helper"), ".slirp-")
		if err != nil {
			tell.Close()
			return err
		}
		defer words.Close()
		defer os.Remove(words.Name())
		cmd.Stderr = words
		err = cmd.Start()
		tell.Close()
		if err != nil {
			return fmt.Errorf("slirp4netns, which carries the container's network: %w", err)
		}
		go cmd.Wait()                                        //nolint:errcheck // it outlives this process
		note := []byte(strconv.Itoa(cmd.Process.Pid) + "\n") // for who takes the container off its networks while it runs
		if err := os.WriteFile(m.path("helper", to.id), note, 0o600); err != nil {
			return err
		}
		_ = ready.SetReadDeadline(time.Now().Add(slirpLimit))
		var b [1]byte
		if n, err := ready.Read(b[:]); n != 1 {
			said, _ := os.ReadFile(words.Name())
			return api.Errorf(api.Unavailable, "slirp4netns, which carries the container's network: not ready: %w: %s", err, strings.TrimSpace(string(said)))
		}
		for _, p := range to.ports {
			if err := forwardPort(socket, p); err != nil {
				return err
			}
		}
		_ = unix.Unlink(socket) // nobody asks it again
		to.link.Held = append(to.link.Held, hold)
		u.Release()
		return ctx.Err()
	}
}

// slirpSocket is where a container's slirp4netns takes orders while it is started: a socket's name may not be longer than 107 bytes. It also says in the
// program's command line whose it is.
func (m *Manager) slirpSocket(id string) string { return m.path("helper", id[:min(12, len(id))]) }

// forwardPort asks slirp4netns for one port: its manual, "API SOCKET".
func forwardPort(socket string, p mapping) error {
	type arguments struct {
		Proto     string `json:"proto"`
		HostAddr  string `json:"host_addr"`
		HostPort  uint16 `json:"host_port"`
		GuestPort uint16 `json:"guest_port"`
	}
	request, err := json.Marshal(struct {
		Execute   string    `json:"execute"`
		Arguments arguments `json:"arguments"`
	}{"add_hostfwd", arguments{p.Protocol, p.Host.Addr().String(), p.Host.Port(), p.Container.Port()}})
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return fmt.Errorf("slirp4netns: its socket: %w", err)
	}
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("slirp4netns: its socket: %w", err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return fmt.Errorf("slirp4netns: its socket: %w", err)
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return fmt.Errorf("slirp4netns: its socket: %w", err)
	}
	var reply struct {
		Error struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer[:n], &reply); err != nil {
		return fmt.Errorf("slirp4netns: its answer: %w", err)
	}
	if reply.Error.Desc != "" {
		return api.Errorf(api.Unavailable, "publish port %s: slirp4netns: %s", p.Host, reply.Error.Desc)
	}
	return nil
}
