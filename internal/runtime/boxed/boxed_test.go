package boxed

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/runtime"
	"brig/internal/runtime/boxed/wire"
)

type level struct{ program string }

func (*level) Name() string      { return "test" }
func (l *level) Program() string { return l.program }
func (*level) Box(user, box *specs.Spec) error {
	box.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_ADMIN"}}
	return nil
}

// TestBox has the user's tree beneath RootPath, what the host brings in resolved there, and nothing of the user's in the monitor's own configuration.
func TestBox(t *testing.T) {
	user := &specs.Spec{
		Version: specs.Version, Hostname: "h", Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"evil"}, Env: []string{"LD_PRELOAD=/evil.so"}, Cwd: "/x", Terminal: true},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc"},
			{Type: "bind", Source: "/srv", Destination: "/data", Options: []string{"rbind", "ro"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/scratch"},
		},
		Linux: &specs.Linux{CgroupsPath: "/brig-x", Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: "/proc/1/fd/3"}, {Type: specs.UserNamespace},
		}},
	}
	dir, bundle := t.TempDir(), t.TempDir()
	data, err := json.Marshal(user)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &sandbox{level: &level{"/usr/libexec/monitor"}, dir: dir}
	b, err := s.box(runtime.Bundle{
		ID: "x", Dir: bundle, Root: []api.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a"}}}, ExitPath: "/exit",
		Health: runtime.HealthSpec{Process: &api.Process{Args: []string{"probe"}, Cwd: "/"}, User: "www"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.Dir != filepath.Join(dir, wire.BundleName) || b.ExitPath != "/exit" || len(b.Root) != 1 || b.Root[0].Type != "tmpfs" {
		t.Errorf("bundle %+v", b)
	}
	if data, err = os.ReadFile(filepath.Join(b.Dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	var box specs.Spec
	if err := json.Unmarshal(data, &box); err != nil {
		t.Fatal(err)
	}
	if p := box.Process; !slices.Equal(p.Args, []string{ProgramPath, ArgRun}) || !p.Terminal || !p.NoNewPrivileges || strings.Contains(strings.Join(p.Env, " "), "evil") {
		t.Errorf("process %+v", p)
	}
	at := map[string]specs.Mount{}
	for _, m := range box.Mounts {
		at[m.Destination] = m
	}
	if m := at[RootPath]; m.Type != "overlay" || m.Options[0] != "lowerdir=/a" || !slices.Contains(m.Options, "ro") {
		t.Errorf("the user's tree: %+v", m)
	}
	if m := at["/data"]; !slices.Contains(m.Options, "brig.beneath="+RootPath) || !slices.Contains(m.Options, "ro") {
		t.Errorf("the bind mount: %+v", m)
	}
	if m := at["/scratch"]; !slices.Equal(m.Options, []string{"brig.place", "brig.beneath=" + RootPath}) {
		t.Errorf("the user's tmpfs, of which the place alone is made in the box: %+v", m)
	}
	for _, p := range []string{"/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/sysrq-trigger"} {
		if !slices.Contains(box.Linux.ReadonlyPaths, p) {
			t.Errorf("the monitor, root without a capability, may write to %s", p)
		}
	}
	if len(box.Linux.Namespaces) != 5 || box.Linux.Namespaces[4].Path != "/proc/1/fd/3" || box.Linux.CgroupsPath != "/brig-x" {
		t.Errorf("linux %+v", box.Linux)
	}
	var x Exec
	env := b.Health.Process.Env
	if err := json.Unmarshal([]byte(strings.TrimPrefix(env[len(env)-1], "BRIG_EXEC=")), &x); err != nil || x.Process.Args[0] != "probe" || x.User != "www" {
		t.Errorf("the health check's process: %q, %v", env, err)
	}
	if b.Health.User != "" {
		t.Error("the monitor runs as the user's user")
	}
}
