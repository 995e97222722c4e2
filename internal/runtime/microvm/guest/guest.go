// Package guest is the agent: the first program in a virtual machine, which turns it into one container.
//
// The machine's kernel starts it from an initial ramdisk that holds nothing else but modules of the kernel's, which it loads. It mounts what any Linux has, opens the channel to the monitor and
// says Hello. The monitor answers with the machine's settings and the user's OCI configuration. The container's tree comes from the host as a virtiofs; out
// of it, and of the file systems that are the guest's own (tmpfs, proc, sysfs, devpts, mqueue, cgroup), package oci builds the container as it would on any
// host, so that users, capabilities, seccomp, limits, terminals and exec are the same code as at level container. The agent itself is outside of it.
//
// What comes over the channel is trusted: the monitor is the mightier of the two. When the channel ends, or the agent cannot go on, the machine ends.
package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/wire"
)

// Main does not return in a machine.
func Main() int {
	if len(os.Args) == 2 && os.Args[1] == wire.ArgRehearse {
		return rehearse()
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "brig-guest is the first program of a virtual machine that Brig starts, and does nothing elsewhere")
		return 2
	}
	err := run()
	fmt.Fprintln(os.Stderr, "brig-guest:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // which ends the machine: the monitor has told QEMU so
	select {}
}

func run() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	if v := unix.ByteSliceToString(u.Release[:]); wire.TooOld(v) {
		return fmt.Errorf("the machine's kernel is Linux %s, and has to be %s or later: brig vm kernel install takes another", v, wire.OldestKernel)
	}
	if err := loadModules("/" + wire.ModulesDir); err != nil {
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	a := newAgent(port)
	a.send(wire.Frame{Kind: wire.Hello, Body: wire.Number(wire.Version)})
	return a.serve()
}

// loadModules loads what a kernel does not have built in, in the order of the files' names, and removes the files, which are in memory.
func loadModules(dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		err = unix.FinitModule(fd, "", 0)
		unix.Close(fd)
		if err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "finit_module", Path: path, Err: err}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// settle mounts what every program expects. The root becomes a tmpfs first: nothing can pivot away from the initial ramdisk.
func settle() error {
	if err := mount("tmpfs", "/new", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := unix.Chdir("/new"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range [...]struct {
		fs, dir string
		flags   uintptr
		data    string
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=755"},
		{"proc", "/proc", quiet, ""},
		{"sysfs", "/sys", quiet, ""},
		{"cgroup2", "/sys/fs/cgroup", quiet, "nsdelegate"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := mount(m.fs, m.dir, m.fs, m.flags, m.data); err != nil {
			return err
		}
	}
	for _, dir := range []string{treeDir, mountPoint, bundleDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// What can be done before the monitor is asked anything is in a template already.
	if err := loopback(); err != nil {
		return err
	}
	for _, c := range [...]string{"cpuset", "cpu", "io", "memory", "pids"} {
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+c), 0) // package oci names the one that it needs
	}
	// What a program wrote through a mapping is only in the machine until it is written back, and SIGKILL ends the machine.
	if err := os.WriteFile("/proc/sys/vm/dirty_writeback_centisecs", []byte("100"), 0); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/vm/dirty_expire_centisecs", []byte("200"), 0)
}

func mount(source, dir, fs string, flags uintptr, data string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, dir, fs, flags, data); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", fs, dir, err)
	}
	return nil
}

// openPort finds the channel's port by its name.
func openPort() (*os.File, error) {
	const class = "/sys/class/virtio-ports"
	for range 15_000 { // the ports are announced by the device after it has been found, which on a busy host takes its time
		ports, _ := os.ReadDir(class)
		for _, p := range ports {
			name, err := os.ReadFile(filepath.Join(class, p.Name(), "name"))
			if err == nil && strings.TrimSpace(string(name)) == wire.PortName {
				fd, err := unix.Open("/dev/"+p.Name(), unix.O_RDWR|unix.O_CLOEXEC, 0)
				if err != nil {
					return nil, &os.PathError{Op: "open", Path: "/dev/" + p.Name(), Err: err}
				}
				return os.NewFile(uintptr(fd), p.Name()), nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil, fmt.Errorf("the machine has no port named %s", wire.PortName)
}
