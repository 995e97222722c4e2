package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func specOf(mounts ...specs.Mount) *specs.Spec {
	limit := int64(7)
	return &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{}, Mounts: mounts, Hooks: &specs.Hooks{},
		Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &limit}}},
	}
}

func bind(dest string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: "/on/the/host", Destination: dest, Options: append(options, "rbind", "rprivate", "owneridmap")}
}

func insideOf(spec *specs.Spec, tree string) error {
	return (&container{spec: spec, tree: tree, group: groupPath}).inside()
}

// TestInside: what is in the tree is left where it is, unless something covers it or it has to be less than writable.
func TestInside(t *testing.T) {
	tree := t.TempDir()
	for _, dir := range []string{"data", "run/secret", "safe", "half", "real"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("/real", filepath.Join(tree, "link"))
	os.Symlink("../../../../../../etc", filepath.Join(tree, "out"))
	spec := specOf(specs.Mount{Type: "tmpfs", Destination: "/run"}, bind("/data"), bind("/run/secret"), bind("/safe", "rro", "noexec"), bind("/half", "ro", "noexec"), bind("/link", "nosuid"),
		specs.Mount{Type: "overlay", Source: "overlay", Destination: "/real", Options: []string{"lowerdir=/on/the/host", "ro"}})
	if err := insideOf(spec, tree); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range spec.Mounts {
		got = append(got, m.Type+" "+m.Destination+" "+strings.Join(m.Options, ","))
		want := filepath.Join(tree, m.Destination)
		if m.Destination == "/link" {
			want = filepath.Join(tree, "real")
		}
		if m.Type == "bind" && m.Source != want {
			t.Errorf("%s is from %s, not %s", m.Destination, m.Source, want)
		}
	}
	want := "tmpfs /run ;bind /run/secret bind;bind /safe ro,noexec,bind;bind /half noexec,bind;bind /link nosuid,bind;bind /real ro,bind"
	if strings.Join(got, ";") != want {
		t.Errorf("mounts\n%q, want\n%q", strings.Join(got, ";"), want)
	}
	if r := spec.Linux.Resources; r.Memory != nil || r.Pids == nil || spec.Hooks != nil || len(spec.Linux.Namespaces) != 6 {
		t.Errorf("%+v, hooks %v", r, spec.Hooks)
	}
	if err := insideOf(specOf(specs.Mount{Type: "tmpfs", Destination: "/out"}, bind("/out/passwd")), tree); err == nil {
		t.Error("a link led out of the tree")
	}
}

// TestInsideReadOnly: under a read-only root all that was bound is bound again, or it would be read-only too.
func TestInsideReadOnly(t *testing.T) {
	tree := t.TempDir()
	os.Mkdir(filepath.Join(tree, "data"), 0o755)
	spec := specOf(bind("/data"))
	spec.Root.Readonly = true
	if err := insideOf(spec, tree); err != nil || len(spec.Mounts) != 1 {
		t.Fatalf("%v, %v", spec.Mounts, err)
	}
}
