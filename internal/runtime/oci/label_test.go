package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/lsm"
	"brig/internal/kernel/mount"
)

// TestLabelsWhereThereIsNoModule: a profile or label that nothing would enforce is refused by its field.
func TestLabelsWhereThereIsNoModule(t *testing.T) {
	for name, tc := range map[string]struct {
		module error
		set    func(*specs.Spec)
	}{
		"process.apparmorProfile \"p\"": {lsm.Host{}.AppArmor(), func(s *specs.Spec) { s.Process.ApparmorProfile = "p" }},
		"process.selinuxLabel \"l\"":    {lsm.Host{}.SELinux(), func(s *specs.Spec) { s.Process.SelinuxLabel = "l" }},
	} {
		s := validSpec()
		tc.set(s)
		err := Validate(s)
		if tc.module == nil {
			if err != nil {
				t.Errorf("%s where the module is on: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), name) || api.KindOf(err) != api.Unsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLabelsAreWritten runs the child's part on a folder in the place of procfs.
func TestLabelsAreWritten(t *testing.T) {
	const profile, label = "exec docker-default", "system_u:system_r:container_t:s0:c1,c2"
	for name, apparmorDir := range map[string]bool{"own folder": true, "one file for all": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files := []string{"exec", "keycreate"}
			if apparmorDir {
				files = append(files, "apparmor/exec")
			}
			for _, f := range files {
				f = filepath.Join(dir, "thread-self/attr", f)
				if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(f, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			read := func(f string) string {
				data, _ := os.ReadFile(filepath.Join(dir, "thread-self/attr", f))
				return string(data)
			}
			a := &attributes{proc: fd, profile: []byte(profile)}
			if stage, e := applyLabels(a); e != 0 {
				t.Fatalf("stage %d: %v", stage, e)
			}
			at := "exec"
			if apparmorDir {
				at = "apparmor/exec"
			}
			if got := read(at); got != profile {
				t.Errorf("%s: %q", at, got)
			}
			a = &attributes{proc: fd, execLabel: []byte(label)}
			if stage, e := applyLabels(a); e != 0 || !strings.HasPrefix(read("exec"), label) {
				t.Errorf("stage %d, %v: exec: %q", stage, e, read("exec"))
			}
			if e := writeProc(fd, &keyName[0], []byte(label)); e != 0 || read("keycreate") != label {
				t.Errorf("%v: keycreate: %q", e, read("keycreate"))
			}
			if err := os.RemoveAll(filepath.Join(dir, "thread-self")); err != nil {
				t.Fatal(err)
			}
			if stage, e := applyLabels(a); stage != stageSELinux || e != unix.ENOENT {
				t.Errorf("missing file: stage %d, %v", stage, e)
			}
			if stage, e := applyLabels(&attributes{proc: fd, profile: []byte(profile)}); stage != stageAppArmor || e != unix.ENOENT {
				t.Errorf("missing file: stage %d, %v", stage, e)
			}
			if err := os.Symlink("/", filepath.Join(dir, "thread-self")); err != nil {
				t.Fatal(err)
			}
			if _, e := applyLabels(a); e != unix.EXDEV {
				t.Errorf("a link that leads out is followed: %v", e)
			}
		})
	}
}

func TestMountLabel(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	s := validSpec()
	b := &builder{spec: s}
	if got := b.labelled("tmpfs", []string{"a"}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("without a label: %q", got)
	}
	s.Linux.MountLabel = label
	given := append(make([]string, 0, 4), "a")
	if got := b.labelled("tmpfs", given); !slices.Equal(got, []string{"a", "context=" + label}) {
		t.Errorf("tmpfs: %q", got)
	}
	if given[:2][1] != "" {
		t.Error("the caller's options are written over")
	}
	for _, fs := range []string{"proc", "sysfs", "mqueue", "cgroup2"} {
		if got := b.labelled(fs, []string{"a"}); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%s: %q", fs, got)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("the label of a queue needs root")
	}
	fd, err := mount.New("tmpfs", "tmpfs", nil, 0) // in the place of an mqueue: it takes the attribute where SELinux is off
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := b.labelQueues(fd, "tmpfs"); err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	buf := make([]byte, 200)
	if n, err := unix.Fgetxattr(dir, "security.selinux", buf); err == nil && string(buf[:n]) == label {
		t.Error("a tmpfs is labelled like a queue")
	}
	if err := b.labelQueues(fd, "mqueue"); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Fgetxattr(dir, "security.selinux", buf); err != nil || strings.TrimRight(string(buf[:max(n, 0)]), "\x00") != label {
		t.Errorf("%v: %q", err, buf[:max(n, 0)])
	}
}

// TestInitialAffinity: the thread that forks is where the process is to begin.
func TestInitialAffinity(t *testing.T) {
	err := onThread(func() error {
		var before, after unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			return err
		}
		first := 0
		for !before.IsSet(first) {
			first++
		}
		a := new(attributes)
		if err := a.affinity(&specs.CPUAffinity{Initial: fmt.Sprint("0-", first)}); err != nil {
			return err
		}
		if err := unix.SchedGetaffinity(0, &after); err != nil {
			return err
		}
		if after.Count() != 1 || !after.IsSet(first) || a.cpus != nil {
			t.Errorf("affinity %v, final %v", after, a.cpus)
		}
		if err := a.affinity(&specs.CPUAffinity{Initial: "8191"}); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("a processor that is not there: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
