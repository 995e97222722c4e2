package machine

import (
	"fmt"
	"os"
	"path/filepath"
)

// StartContainerd starts a containerd that keeps all that it has below dir. stop ends it, also after an error.
func StartContainerd(dir string) (socket string, stop func(), err error) {
	socket = filepath.Join(dir, "containerd.sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "containerd"), filepath.Join(dir, "containerd-state"), socket)
	file := filepath.Join(dir, "containerd.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return "", func() {}, err
	}
	stop, err = StartDaemon(dir, socket, "containerd", "--config", file)
	return socket, stop, err
}

// StartDockerd starts a dockerd beside a containerd, with more flags. stop ends it, also after an error.
func StartDockerd(dir, containerd string, more ...string) (socket string, stop func(), err error) {
	socket = filepath.Join(dir, "docker.sock")
	stop, err = StartDaemon(dir, socket, append([]string{"dockerd", "--containerd", containerd, "-H", "unix://" + socket, "--data-root", filepath.Join(dir, "docker"),
		"--exec-root", filepath.Join(dir, "docker-run"), "--pidfile", filepath.Join(dir, "docker.pid")}, more...)...)
	return socket, stop, err
}

// Podman is the command line of a podman that keeps all that it has below dir.
func Podman(dir string) []string {
	return []string{"podman", "--root", filepath.Join(dir, "podman"), "--runroot", filepath.Join(dir, "podman-run"),
		"--tmpdir", filepath.Join(dir, "podman-tmp"), "--cgroup-manager=cgroupfs", "--events-backend=file", "--network-config-dir", filepath.Join(dir, "podman-net")}
}

// PodmanLimits are flags of podman run where root may not raise limits: podman asks for more than most hosts begin with.
func PodmanLimits() []string {
	return []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}
}
