package monitor

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/wire"
)

// vm is the running machine.
type vm struct {
	qemu, fs *exec.Cmd
	channel  *os.File // to the agent
	console  *os.File // what the kernel says
}

// qemuUser is whom QEMU runs as. Nobody else in the box is.
const qemuUser = 64055

// launch starts the machine and the server of its files.
func launch(m *wire.Machine, nics []nic, begun stamp) (*vm, error) {
	ramdisk, err := ramdisk(m.Guest)
	if err != nil {
		return nil, err
	}
	defer ramdisk.Close()
	v := &vm{}
	channel, agentEnd, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer agentEnd.Close()
	console, consoleEnd, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer consoleEnd.Close()
	v.channel, v.console = channel, console
	fs, err := v.serveFiles(m, consoleEnd)
	if err != nil {
		return nil, fmt.Errorf("the server of the container's files: %w", err)
	}
	defer fs.Close()
	files := []*os.File{ramdisk, fs, agentEnd, consoleEnd}
	const first = 3 // the number of the first of files in QEMU
	mib := m.Memory >> 20
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		// A kernel that finds no clock waits a second for it.
		"-machine", "microvm,acpi=off,rtc=on,memory-backend=ram", "-cpu", "max", "-smp", strconv.Itoa(m.CPUs), "-m", fmt.Sprintf("%dM", mib),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", mib), "-global", "virtio-mmio.force-legacy=false",
		"-kernel", m.Kernel, "-initrd", fmt.Sprintf("/proc/self/fd/%d", first),
		"-append", commandLine(m, begun),
		"-chardev", fmt.Sprintf("socket,id=fs,fd=%d", first+1), "-device", "vhost-user-fs-device,chardev=fs,tag=" + wire.TreeTag,
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", first+2), "-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=" + wire.PortName,
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", first+3), "-serial", "chardev:console",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	if m.Accel == wire.AccelKVM {
		args = append(args, "-accel", wire.AccelKVM)
	} else {
		args = append(args, "-accel", "tcg,thread=multi,tb-size=64")
	}
	for i, n := range nics {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, first+len(files)), "-device", fmt.Sprintf("virtio-net-device,netdev=net%d,mac=%s", i, n.link.MAC))
		files = append(files, n.tap)
	}
	v.qemu = exec.Command(m.QEMU, args...)
	v.qemu.Env, v.qemu.Dir, v.qemu.ExtraFiles = []string{"PATH=/usr/bin:/bin"}, "/", files
	v.qemu.Stdout, v.qemu.Stderr = consoleEnd, consoleEnd
	v.qemu.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: qemuUser, Gid: qemuUser}}
	if err := v.qemu.Start(); err != nil {
		return nil, fmt.Errorf("%w: Debian's package qemu-system-x86 has it", err)
	}
	for _, n := range nics {
		n.tap.Close()
	}
	return v, nil
}

// commandLine is the kernel's. It panics aloud, and says nothing else; a machine that has panicked ends.
func commandLine(m *wire.Machine, begun stamp) string {
	// Code is patched as little as may be: an emulator translates all of it again that is near.
	line := "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t no_timer_check noreplace-smp dummy.numdummies=0 rdinit=/init"
	if m.Accel == wire.AccelTCG {
		if khz := begun.khz(); khz > 0 {
			line += fmt.Sprintf(" tsc=reliable tsc_early_khz=%d", khz)
		}
	}
	return line
}

// serveFiles starts virtiofsd on the tree and returns a connection to it for QEMU.
func (v *vm) serveFiles(m *wire.Machine, log *os.File) (*os.File, error) {
	const path = "/run/files.sock"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	listener, err := l.File()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	// xattr: capabilities of files. The sandbox of namespaces needs rights that the box does not have, and the box has them all already.
	v.fs = exec.Command(m.VirtioFS, "--fd=3", "-o", "source="+m.Tree, "-o", "sandbox=chroot", "-o", "cache=auto", "-o", "xattr", "-o", "log_level=err", "-o", "announce_submounts",
		"--rlimit-nofile=0")
	v.fs.Env, v.fs.Dir, v.fs.ExtraFiles = []string{"PATH=/usr/bin:/bin"}, "/", []*os.File{listener}
	v.fs.Stdout, v.fs.Stderr = log, log
	v.fs.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := v.fs.Start(); err != nil {
		return nil, fmt.Errorf("%w: Debian's package qemu-system-common has it", err)
	}
	f, err := c.File()
	if err != nil {
		return nil, err
	}
	return f, nil
}

// socketpair is one end for the monitor, one for QEMU.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "machine"), os.NewFile(uintptr(fds[1]), "machine"), nil
}

// ramdisk is the initial ramdisk in memory: the agent as /init, in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).
func ramdisk(program string) (*os.File, error) {
	in, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("ramdisk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "ramdisk")
	w := &cpio{w: f}
	w.entry("dev", 0o40755, 0, nil)
	w.device("dev/console", 0o20600, 5, 1)
	w.entry("new", 0o40755, 0, nil)
	w.entry("init", 0o100755, info.Size(), in)
	w.entry("TRAILER!!!", 0, 0, nil)
	if w.err != nil {
		f.Close()
		return nil, w.err
	}
	return f, nil
}

// cpio writes an archive; the first error stays.
type cpio struct {
	w     io.Writer
	inode int
	err   error
}

func (c *cpio) entry(name string, mode int, size int64, content io.Reader) {
	c.write(name, mode, size, content, 0, 0)
}

func (c *cpio) device(name string, mode, major, minor int) { c.write(name, mode, 0, nil, major, minor) }

func (c *cpio) write(name string, mode int, size int64, content io.Reader, major, minor int) {
	if c.err != nil {
		return
	}
	c.inode++
	var h strings.Builder
	h.WriteString("070701")
	for _, n := range []int64{int64(c.inode), int64(mode), 0, 0, 1, 0, size, 0, 0, int64(major), int64(minor), int64(len(name) + 1), 0} {
		fmt.Fprintf(&h, "%08x", n)
	}
	h.WriteString(name + "\x00")
	if _, c.err = io.WriteString(c.w, h.String()+pad(int64(h.Len()))); c.err != nil || content == nil {
		return
	}
	n, err := io.Copy(c.w, content)
	if err == nil && n != size {
		err = fmt.Errorf("%s: it changed while it was read", name)
	}
	if c.err = err; err == nil {
		_, c.err = io.WriteString(c.w, pad(size))
	}
}

// pad is what fills up to a multiple of four.
func pad(n int64) string { return "\x00\x00\x00"[:-n&3] }

// seed is randomness for one machine.
func seed() []byte {
	b := make([]byte, 32)
	rand.Read(b) //nolint:errcheck // it never fails
	return b
}

// bootTicks is how long a machine may take to say that it is there.
func bootTicks(m *wire.Machine) int {
	if m.Accel == wire.AccelKVM {
		return 30
	}
	return 180 // an emulator, on a machine that has more to do
}
