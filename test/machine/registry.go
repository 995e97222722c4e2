package machine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Registry is Debian's docker-registry on a loopback port of its own.
type Registry struct {
	Address string // 127.0.0.1:port
	cmd     *exec.Cmd
}

// StartRegistry starts a registry that keeps its blobs in dir.
func StartRegistry(dir string) (*Registry, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port; the registry takes it a moment later
	if err != nil {
		return nil, err
	}
	r := &Registry{Address: l.Addr().String()}
	if err := l.Close(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", dir, r.Address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	r.cmd = exec.Command("docker-registry", "serve", config)
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: apt-get install docker-registry", err)
	}
	for range 100 {
		if c, err := net.Dial("tcp", r.Address); err == nil {
			return r, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.Stop()
	return nil, fmt.Errorf("docker-registry does not answer on %s after 5 s", r.Address)
}

// Push puts the image of a docker-archive into the registry as ref.
func (r *Registry) Push(archive, ref string) error {
	out, err := exec.Command("skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+ref).CombinedOutput()
	if err != nil {
		return fmt.Errorf("skopeo copy to %s: %w: %s", ref, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// PushLayout puts an image of an OCI layout, PATH:TAG, into the registry as ref, bit for bit.
func (r *Registry) PushLayout(image, ref string) error {
	out, err := exec.Command("skopeo", "copy", "-q", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false", "oci:"+image, "docker://"+ref).CombinedOutput()
	if err != nil {
		return fmt.Errorf("skopeo copy to %s: %w: %s", ref, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Stop ends the registry.
func (r *Registry) Stop() {
	_ = r.cmd.Process.Signal(unix.SIGTERM)
	_ = r.cmd.Wait()
}
