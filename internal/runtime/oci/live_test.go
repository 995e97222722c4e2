package oci

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// busybox is Debian's busybox-static.
const busybox = "/usr/bin/busybox"

var containers atomic.Int32

// container is a bundle to be run once.
type container struct {
	*testing.T
	root string // folder of the root file system
	spec *specs.Spec
	req  *Request
}

// newContainer makes a bundle with busybox, a /proc and the namespaces that every container has.
func newContainer(t *testing.T) *container {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes containers")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	bundle := t.TempDir()
	root := filepath.Join(bundle, "rootfs")
	must(t, os.MkdirAll(root+"/bin", 0o755), os.Chmod(bundle, 0o755), os.Chmod(root, 0o755))
	data, err := os.ReadFile(busybox)
	must(t, err, os.WriteFile(root+"/bin/busybox", data, 0o755))
	for _, name := range strings.Fields("sh cat ls stat grep echo touch mkdir ln id readlink test wc dd ip head od mount sort find sysctl chown true") {
		must(t, os.Symlink("busybox", root+"/bin/"+name))
	}
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", Env: []string{"PATH=/bin"}},
		Root:    &specs.Root{Path: root},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc"}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace},
			{Type: specs.CgroupNamespace},
		}},
	}
	id := fmt.Sprintf("brig-oci-test-%d-%d", os.Getpid(), containers.Add(1))
	return &container{t, root, s, &Request{ID: id, Spec: s, Bundle: bundle, RootPath: root, MountPoint: root, NetNS: -1, Gate: -1}}
}

// try runs a script in the container and returns what it printed, or why it could not be made.
func (c *container) try(script string) (string, error) {
	c.Helper()
	c.spec.Process.Args = []string{"/bin/sh", "-c", script}
	var p [2]int
	must(c.T, unix.Pipe2(p[:], unix.O_CLOEXEC))
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(c.T, err)
	c.req.Stdio = [3]int{null, p[1], p[1]}
	made, err := Create(c.req)
	unix.Close(null)
	unix.Close(p[1])
	out := os.NewFile(uintptr(p[0]), "output")
	defer out.Close()
	if err != nil {
		return "", err
	}
	defer made.Cgroup.Remove()
	if err := made.Start(); err != nil {
		made.Reap()
		return "", err
	}
	var text bytes.Buffer
	_, err = text.ReadFrom(out)
	if _, rerr := made.Reap(); err == nil {
		err = rerr
	}
	return text.String(), err
}

// run is try for a container that must be made.
func (c *container) run(script string) string {
	c.Helper()
	out, err := c.try(script)
	if err != nil {
		c.Fatalf("%v", err)
	}
	return strings.TrimSpace(out)
}

// mount adds a mount.
func (c *container) mount(dest, fstype, source string, options ...string) {
	c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: dest, Type: fstype, Source: source, Options: options})
}

// want runs a script and compares what it printed.
func (c *container) want(script, want string) {
	c.Helper()
	if got := c.run(script); got != want {
		c.Errorf("%s:\n got %s\nwant %s", script, got, want)
	}
}

// refused runs a container that must not come to be, and leave no mount.
func (c *container) refused(words ...string) {
	c.Helper()
	before, _ := os.ReadFile("/proc/self/mountinfo")
	out, err := c.try("echo made")
	if err == nil {
		c.Errorf("it was made: %s", out)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			c.Errorf("%v: want %q", err, w)
		}
	}
	if after, _ := os.ReadFile("/proc/self/mountinfo"); !bytes.Equal(before, after) {
		c.Error("mounts were left")
	}
}

// tmpfs mounts a tmpfs at a new folder of the test's own mount namespace.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// tool runs a program on the test's side.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func itoa(n int) string { return fmt.Sprint(n) }

// userNS gives the container a user namespace whose root is user 100000 of the host, who owns the root.
func (c *container) userNS() {
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings = ids, ids
	must(c.T, filepath.Walk(c.root, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, 100000, 100000)
	}))
}
