package monitor

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"brig/internal/runtime/boxed/wire"
)

// A pod is one Sentry, that of its infra container. The monitor in the box of a member starts one more container in that Sentry, by gVisor's own means: the gofer with the member's tree is in the
// member's box, the Sentry's control socket in the infra's, of which the member's is shown the folder. As long as the member is there its monitor holds a connection to that of the infra container,
// which ends what is left of the member in the Sentry when the connection breaks.

// podSocket is where the infra's monitor hears of members: a connection is one, whose only message is its name.
const podSocket = wire.RunDir + "/pod.sock"

const (
	exitLost  = 255 // of a member whose Sentry has ended
	maxMember = 255 // bytes of a name
)

// shmSource is the name by which the pod's containers know one /dev/shm: an absolute path, or gVisor would make it one.
const shmSource = "/dev/shm"

// pod makes a configuration that of a container of a pod, as gVisor knows pods.
func pod(s *specs.Spec, p *wire.Pod) {
	s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	if p.Member == "" {
		const hint = "dev.gvisor.spec.mount.shm."
		for i := range s.Mounts {
			if m := &s.Mounts[i]; m.Destination == "/dev/shm" {
				m.Source = shmSource
				s.Annotations[hint+"source"], s.Annotations[hint+"type"], s.Annotations[hint+"share"] = m.Source, "tmpfs", "pod"
				s.Annotations[hint+"options"] = strings.Join(m.Options, ",")
			}
		}
		return
	}
	s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": sandboxID}
	s.Process.OOMScoreAdj = nil // the box's
	// The users of the files that the gofer opens are the box's: what gVisor does to a container that it makes itself.
	all := []specs.LinuxIDMapping{{Size: 1<<32 - 1}}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = all, all
}

// joined leaves out the PID namespace of a member that has the pod's: gVisor takes that for a wish for the Sentry's first one.
func joined(s, user *specs.Spec) {
	if wire.Shared(user, specs.PIDNamespace) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	}
}

// startMember starts a member's container in the Sentry of its infra container.
func startMember(p *wire.Pod, conf *config.Config, spec *specs.Spec) (*container.Container, net.Conn, error) {
	held, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: filepath.Join(wire.InfraDir, filepath.Base(podSocket)), Net: "unixpacket"})
	if err != nil {
		return nil, nil, fmt.Errorf("the monitor of the pod's Sentry does not answer: %w", err)
	}
	if _, err := held.Write([]byte(p.Member)); err != nil {
		return nil, nil, err
	}
	id := container.FullID{SandboxID: sandboxID, ContainerID: sandboxID}
	data, err := os.ReadFile(filepath.Join(wire.InfraDir, filepath.Base(stateDir), fmt.Sprintf("%s_sandbox:%s.state", id.ContainerID, id.SandboxID)))
	if err != nil {
		return nil, nil, err
	}
	var infra container.Container
	if err := json.Unmarshal(data, &infra); err != nil || infra.Sandbox == nil {
		return nil, nil, fmt.Errorf("gVisor's state of the pod's Sentry cannot be read: %v", err)
	}
	infra.Sandbox.ControlSocketPath = filepath.Join(wire.InfraDir, strings.TrimPrefix(infra.Sandbox.ControlSocketPath, wire.RunDir))
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, nil, err
	}
	id.ContainerID = p.Member
	c := &container.Container{
		ID: p.Member, Spec: spec, BundleDir: bundleDir, CreatedAt: time.Now(), Status: container.Created, Sandbox: infra.Sandbox,
		Saver: container.StateFile{RootDir: stateDir, ID: id},
	}
	var terminal *os.File
	if spec.Process.Terminal {
		terminal = os.Stdin
	}
	if err := c.Sandbox.CreateSubcontainer(conf, c.ID, terminal); err != nil {
		return nil, nil, fmt.Errorf("gVisor: %w", err)
	}
	if err := c.Start(conf); err != nil {
		return nil, nil, cause(err, spec.Process)
	}
	return c, held, nil
}

// waitMember returns the status of a member's first process. held breaks when the pod's Sentry, or its monitor, ends.
func (s *sandbox) waitMember() int {
	lost := make(chan struct{})
	go func() {
		_, _ = s.held.Read(make([]byte, 1))
		close(lost)
	}()
	type end struct {
		ws  unix.WaitStatus
		err error
	}
	ended := make(chan end, 1)
	go func() {
		ws, err := s.c.Sandbox.Wait(s.c.ID)
		ended <- end{ws, err}
	}()
	select {
	case e := <-ended:
		if e.err == nil {
			return status(e.ws)
		}
	case <-lost:
	}
	_ = os.WriteFile(wire.ToldPath, []byte(wire.ToldLost), 0o600) // it is but the reason
	fmt.Fprintln(os.Stderr, "brig: the Sentry of the pod has ended")
	return exitLost
}

// members hears of members as long as this process lives.
func (s *sandbox) members(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go s.member(c)
	}
}

// again is when a member that has gone is ended once more: what its monitor had asked for, just before it was killed, may have been under way.
const again = time.Second

func (s *sandbox) member(c *net.UnixConn) {
	defer c.Close()
	b := make([]byte, maxMember+1)
	n, err := c.Read(b)
	name := string(b[:n])
	if err != nil || n > maxMember || name == sandboxID || name == "" {
		return
	}
	_, _ = c.Read(b) // to its end
	_ = s.c.Sandbox.DestroyContainer(name)
	time.Sleep(again)
	_ = s.c.Sandbox.DestroyContainer(name)
}

// attend listens for members.
func attend() (*net.UnixListener, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: podSocket, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(podSocket, 0o600)
}
