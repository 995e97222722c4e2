package microvm

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/kernel/proc"
	"brig/internal/runtime/microvm/wire"
)

// host is a level whose files are there.
func host(t *testing.T) *Level {
	t.Helper()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l := &Level{Monitor: file("brig-vm", "#!/bin/sh\nexit 1\n"), Guest: file("brig-guest", ""), Kernels: []string{filepath.Join(dir, "none"), file("kernel", "")}, Cache: filepath.Join(dir, "vm", "accelerator")}
	if err := l.Usable(); err != nil {
		t.Skip("level vm cannot be used here: ", err)
	}
	return l
}

func box(t *testing.T, l *Level, r *specs.LinuxResources, mounts ...specs.Mount) (*specs.Spec, wire.Machine, error) {
	t.Helper()
	user := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: r}, Mounts: mounts}
	outer := &specs.Spec{Annotations: map[string]string{"org.brig.owner": "1500"}, Process: &specs.Process{Env: []string{"PATH=/bin"}}, Linux: &specs.Linux{Resources: r}}
	err := l.Box(user, outer)
	var m wire.Machine
	for _, e := range outer.Process.Env {
		if text, ok := strings.CutPrefix(e, wire.MachineVar+"="); ok {
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return outer, m, err
}

func number[T any](n T) *T { return &n }

func TestBox(t *testing.T) {
	l := host(t)
	outer, m, err := box(t, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if outer.Annotations["org.brig.owner"] != "1500" {
		t.Error("what the box was told of the user's owner is lost")
	}
	if m.Memory != DefaultMemory || *outer.Linux.Resources.Memory.Limit != DefaultMemory+Overhead || m.Tree != "/rootfs" || m.Kernel != kernelPath {
		t.Errorf("%+v in %+v", m, outer.Linux.Resources.Memory)
	}
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: number[int64](1 << 30), Swap: number[int64](2 << 30)}, Pids: &specs.LinuxPids{Limit: number[int64](3)},
		CPU: &specs.LinuxCPU{Quota: number[int64](250_000), Period: number[uint64](100_000)},
	}
	outer, m, err = box(t, l, r)
	if err != nil {
		t.Fatal(err)
	}
	got := outer.Linux.Resources
	if m.Memory != 1<<30 || m.CPUs != 3 || *got.Memory.Limit != 1<<30+Overhead || *got.Memory.Swap != 2<<30+Overhead || *got.Pids.Limit != boxPids || *got.CPU.Quota != 250_000 {
		t.Errorf("%+v in %+v", m, got)
	}
	if *r.Memory.Limit != 1<<30 || *r.Pids.Limit != 3 {
		t.Error("the user's limits were changed")
	}
	if slices.Contains(outer.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") || outer.Linux.Seccomp == nil {
		t.Error("the box is not locked")
	}
	if _, _, err := box(t, l, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: number[int64](20 << 20)}}); err == nil || !strings.Contains(err.Error(), "96 MiB") {
		t.Error("a machine of 20 MiB: ", err)
	}
	if rest := l.OfBox(r); rest.Memory != nil || rest.Pids != nil || rest.CPU == nil || r.Memory == nil {
		t.Errorf("of changed limits the box gets %+v", rest)
	}
}

func TestUnshared(t *testing.T) {
	l := host(t)
	path := filepath.Join(t.TempDir(), "s")
	s, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := box(t, l, nil, specs.Mount{Destination: "/s", Source: path, Options: []string{"rbind"}}); err == nil || !strings.Contains(err.Error(), "socket") {
		t.Error("a socket of the host's: ", err)
	}
}

func TestMissing(t *testing.T) {
	l := host(t)
	l.Kernels = l.Kernels[:1]
	if err := l.Usable(); err == nil || !strings.Contains(err.Error(), "make guest-kernel") {
		t.Error(err)
	}
	l = host(t)
	os.Remove(l.Guest)
	if err := l.Usable(); err == nil || !strings.Contains(err.Error(), "brig-guest") {
		t.Error(err)
	}
}

// TestAccel: KVM is used where the probe says so, and it is asked once a boot.
func TestAccel(t *testing.T) {
	l := host(t)
	os.MkdirAll(filepath.Dir(l.Cache), 0o700)
	if _, err := os.Stat(kvmPath); err == nil {
		if got := l.accel(); got != wire.AccelTCG {
			t.Error("with a probe that fails: ", got)
		}
		if b, err := os.ReadFile(l.Cache); err != nil || string(b) != proc.BootID()+" tcg\n" {
			t.Errorf("%q, %v", b, err)
		}
		os.WriteFile(l.Cache, []byte(proc.BootID()+" kvm\n"), 0o600)
		if got := l.accel(); got != wire.AccelKVM {
			t.Error("when it is known: ", got)
		}
		os.WriteFile(l.Cache, []byte("another-boot kvm\n"), 0o600)
		if got := l.accel(); got != wire.AccelTCG {
			t.Error("after another boot: ", got)
		}
	}
	begun := time.Now()
	if runsIn(100*time.Millisecond, "/bin/sleep", "60") || time.Since(begun) > 30*time.Second {
		t.Error("a probe that hangs is waited for")
	}
	if !runsIn(time.Minute, "/bin/true") || runsIn(time.Minute, "/bin/false") {
		t.Error("true and false")
	}
}

// TestTemplate has a machine look for the template of its own kind, and none where there is to be none.
func TestTemplate(t *testing.T) {
	l := host(t)
	l.Templates = filepath.Join(t.TempDir(), "templates")
	l.Cache = "" // no KVM is known of
	_, m, err := box(t, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Accel != wire.AccelTCG {
		t.Skip("machines start from templates only where there is no KVM, and here is one")
	}
	outer, again, err := box(t, l, nil)
	if err != nil || m.Template == "" || again.Template != m.Template {
		t.Errorf("two machines alike: templates %q and %q, %v", m.Template, again.Template, err)
	}
	shown := slices.IndexFunc(outer.Mounts, func(m specs.Mount) bool { return m.Source == l.Templates })
	if shown < 0 || !slices.Contains(outer.Mounts[shown].Options, "ro") {
		t.Errorf("the folder of templates: %+v", outer.Mounts)
	}
	other, _ := kind(&wire.Machine{Memory: m.Memory + 1<<20, CPUs: m.CPUs, Accel: m.Accel}, l.Guest)
	same, _ := kind(&m, l.Guest)
	if other == same || other == "" {
		t.Errorf("machines of two sizes have the template %q", other)
	}
	if err := os.WriteFile(l.Guest, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if changed, _ := kind(&m, l.Guest); changed == same {
		t.Error("another agent, the same template")
	}
	l.FromNothing = true
	if _, m, err = box(t, l, nil); err != nil || m.Template != "" {
		t.Errorf("without templates: %q, %v", m.Template, err)
	}
}
