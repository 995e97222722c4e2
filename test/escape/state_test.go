package escape

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What is kept of a container, whatever the umask of who calls.
func TestStateIsClosed(t *testing.T) {
	against(t, "modes", func(o *oci) (found string) {
		for _, mask := range []int{0, 0o077, 0o277} {
			o.root = filepath.Join(o.TempDir(), "oci")
			bundle := o.bundle(func(_ string, s *specs.Spec) { shell(s, "umask; sleep 100") })
			old := unix.Umask(mask) // the commands' too
			id := o.create(bundle)
			unix.Umask(old)
			seen := 0
			err := filepath.WalkDir(o.root, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				seen++
				if info.Mode().Perm()&0o077 != 0 {
					found += fmt.Sprintf("%v %s; ", info.Mode(), strings.TrimPrefix(path, o.root))
				}
				return nil
			})
			if err != nil || seen < 6 { // root, container, lock, config.json, state.json, start.sock
				o.Errorf("umask %o: %d files seen, %v", mask, seen, err)
			}
			if r := o.run("start", id); r.code != 0 {
				o.Errorf("umask %o: %s", mask, r)
			}
			if got := strings.TrimSpace(o.run("exec", id, "sh", "-c", "umask").out); got != "0022" {
				o.Errorf("umask %o: the container's is %q", mask, got)
			}
			(&oci{o.T, "", o.root}).must("delete", "--force", id)
		}
		return found
	})
}

// A socket without a file, which everybody in the network namespace can connect to.
func TestNoAbstractSocket(t *testing.T) {
	against(t, "abstract", func(o *oci) string {
		id, _ := o.background(o.bundle(func(_ string, s *specs.Spec) {
			s.Linux.Namespaces = s.Linux.Namespaces[:4] // the host's network
			s.Process.Args = []string{"sleep", "1000"}
		}))
		o.create(o.bundle(nil))
		table := o.must("exec", id, "cat", "/proc/net/unix")
		if !strings.Contains(table, "Inode") {
			o.Fatal(table)
		}
		var found string
		for line := range strings.Lines(table) {
			if strings.Contains(line, "@") {
				found += line
			}
		}
		return found
	})
}

// A table of processes that is made by a program of the container's.
func TestPsIsTheHosts(t *testing.T) {
	if _, err := exec.LookPath("ps"); err != nil {
		t.Skip("the host has no ps")
	}
	against(t, "ps", func(o *oci) string {
		id, _ := o.background(o.bundle(func(dir string, s *specs.Spec) {
			rootfs := filepath.Join(dir, "rootfs")
			os.MkdirAll(filepath.Join(rootfs, "usr/bin"), 0o755)
			for _, at := range []string{"bin/ps", "usr/bin/ps"} {
				if err := os.WriteFile(filepath.Join(rootfs, at), []byte("#!/bin/sh\necho PID the container was here\n"), 0o755); err != nil {
					o.Fatal(err)
				}
			}
			s.Process.Args = []string{"sleep", "1000"}
		}))
		r := o.run("ps", id)
		if o.weak == "" && !strings.Contains(r.out, "sleep") {
			o.Error(r)
		}
		if strings.Contains(r.out, "was here") {
			return r.out
		}
		return ""
	})
}

// Control groups, mounted read-only for a container with many rights, and writable in a user namespace: what a process could do to groups that are not its
// own, or to release_agent.
func TestCgroupsAreItsOwn(t *testing.T) {
	against(t, "cgroup", func(o *oci) (found string) {
		mount := func(options ...string) specs.Mount {
			return specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: append([]string{"nosuid", "noexec", "nodev"}, options...)}
		}
		look := `for p in /sys/fs/cgroup/*/* /sys/fs/cgroup/*/*/*; do [ -f $p ] && (: >>$p) 2>/dev/null && echo "$p writable"; done
			for p in /sys/fs/cgroup/*/release_agent; do [ -f $p ] && echo "$p is there"; done; [ -d /sys/fs/cgroup/memory ] || [ -f /sys/fs/cgroup/cgroup.procs ] && echo control`
		for _, users := range []bool{false, true} {
			r := o.once(o.bundle(func(_ string, s *specs.Spec) {
				if users {
					inUserNS(s)
					s.Mounts = append(s.Mounts, mount())
				} else {
					grant(s, "CAP_DAC_READ_SEARCH", "CAP_SYS_NICE")
					s.Mounts = append(s.Mounts, mount("ro"))
				}
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "cgroup"})
				shell(s, look)
			}))
			if !strings.Contains(r.out, "control") {
				o.Error(r)
			}
			if rest := strings.ReplaceAll(r.out, "control\n", ""); rest != "" {
				found += rest
			}
		}
		return found
	})
}
