package monitor

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/kernel"
	"brig/internal/runtime/microvm/ramdisk"
	"brig/internal/runtime/microvm/wire"
)

// vm is the running machine.
type vm struct {
	qemu, fs *exec.Cmd
	channel  *os.File   // to the agent
	console  *os.File   // what the kernel says
	late     bool       // it comes from a template, and its devices after it
	relayed  chan error // why the relay of its files has ended; nil: there is none
}

// qemuUser is whom QEMU runs as. Nobody else in the box is.
const qemuUser = 64055

// firstFile is the number in QEMU of the first file that it is given.
const firstFile = 3

// launch starts a machine, and the server of its files, from nothing.
func launch(m *wire.Machine, nics []nic, begun stamp) (*vm, error) {
	first, err := beginningOf(m)
	if err != nil {
		return nil, err
	}
	defer first.close()
	v := &vm{}
	ends, err := v.connect()
	if err != nil {
		return nil, err
	}
	defer ends.close()
	fs, err := v.serveFiles(m, ends.console)
	if err != nil {
		return nil, fmt.Errorf("the server of the container's files: %w", err)
	}
	defer fs.Close()
	files := []*os.File{ends.agent, ends.console, first.ramdisk, fs}
	treeDevice, netDevice, args := "vhost-user-fs-device", "virtio-net-device,netdev=net%d,mac=%s", []string(nil)
	if first.pc {
		treeDevice, netDevice, args = "vhost-user-fs-pci", nicDevice, thePC(m)
	} else {
		// A kernel that finds no clock waits a second for it.
		args = append(common(m), "-machine", "microvm,acpi=off,rtc=on,memory-backend=ram", "-global", "virtio-mmio.force-legacy=false", "-device", "virtio-serial-device,"+onePort, "-device", agentPort)
	}
	args = append(args, "-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", m.Memory>>20),
		"-kernel", m.Kernel, "-initrd", fmt.Sprintf("/proc/self/fd/%d", firstFile+2), "-append", commandLine(m, first.pc, first.pc, begun),
		"-chardev", fmt.Sprintf("socket,id=fs,fd=%d", firstFile+3), "-device", fsDevice(treeDevice))
	for i, n := range nics {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, firstFile+len(files)), "-device", fmt.Sprintf(netDevice, i, n.link.MAC))
		files = append(files, n.tap)
	}
	if err := v.start(m, args, files); err != nil {
		v.end()
		return nil, err
	}
	return v, nil
}

// theirs are the ends of a machine's connections that QEMU has.
type theirs struct{ agent, console *os.File }

func (t *theirs) close() {
	t.agent.Close()
	t.console.Close()
}

// connect makes the channel to the agent, and the console.
func (v *vm) connect() (t theirs, err error) {
	if v.channel, t.agent, err = socketpair(); err != nil {
		return t, err
	}
	if v.console, t.console, err = socketpair(); err != nil {
		t.agent.Close()
	}
	return t, err
}

// onePort is for the device of ports: it has room for 31, with two queues each, if it is not told otherwise, and both QEMU and the machine's kernel set up all of them. The first is a console's.
const onePort = "max_ports=2"

// agentPort is the device at which the agent's port ends in the machine.
const agentPort = "virtserialport,chardev=agent,name=" + wire.PortName

// common are the arguments of every QEMU. Its first two files are those of theirs.
func common(m *wire.Machine) []string {
	accel, cpu := wire.AccelKVM, "max"
	if m.Accel != wire.AccelKVM {
		// 128 MiB for what is translated: a boot and two containers are half of it, and a template is to have all of that.
		accel = "tcg,thread=multi,tb-size=128"
		cpu += ",-erms,-fsrm" // a processor that says that it copies bytes fast is believed, and an emulator copies them one by one
	}
	// As many sockets: the table of processors that a PC's BIOS makes has one of each socket.
	return []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-cpu", cpu, "-smp", fmt.Sprintf("%d,sockets=%d", m.CPUs, m.CPUs), "-m", fmt.Sprintf("%dM", m.Memory>>20), "-accel", accel,
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", firstFile), "-chardev", fmt.Sprintf("socket,id=console,fd=%d", firstFile+1), "-serial", "chardev:console",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
}

// start executes QEMU.
func (v *vm) start(m *wire.Machine, args []string, files []*os.File) error {
	v.qemu = exec.Command(m.QEMU, args...)
	v.qemu.Env, v.qemu.Dir, v.qemu.ExtraFiles = []string{"PATH=/usr/bin:/bin"}, "/", files
	v.qemu.Stdout, v.qemu.Stderr = files[1], files[1]
	v.qemu.SysProcAttr = asQEMU()
	if err := v.qemu.Start(); err != nil {
		return fmt.Errorf("%w: Debian's package qemu-system-x86 has it", err)
	}
	return nil
}

// end ends what is there of a machine that did not come to be.
func (v *vm) end() {
	for _, c := range []*exec.Cmd{v.qemu, v.fs} {
		if c != nil && c.Process != nil {
			c.Process.Kill()
			c.Wait() //nolint:errcheck // it was killed
		}
	}
	for _, f := range []*os.File{v.channel, v.console} {
		if f != nil {
			f.Close()
		}
	}
}

// commandLine is the kernel's, which is a distribution's or Brig's, in a PC or in a smaller machine. It panics aloud, and says nothing else; a machine that has panicked ends.
func commandLine(m *wire.Machine, distribution, pc bool, begun stamp) string {
	// Code is patched as little as may be: an emulator translates all of it again that is near. The agent's goroutines are not to be interrupted for having been slow.
	line := "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t no_timer_check noreplace-smp dummy.numdummies=0 rdinit=/init GODEBUG=asyncpreemptoff=1"
	if m.Accel == wire.AccelTCG {
		// virtiofsd writes to the machine's memory behind the emulator's back, which would go on to execute what it has translated of a page's former content. Pages that the kernel clears
		// before it gives them away it sees.
		line += " init_on_alloc=1"
		if pc {
			line += " maxcpus=1" // the agent brings up the others
		}
		if khz := begun.khz(); khz > 0 {
			line += fmt.Sprintf(" tsc=reliable tsc_early_khz=%d", khz)
			if !distribution {
				// Two things that a kernel would measure, for 0.4 s: how often a loop turns in a tick, which is the counter's frequency by HZ (with more than these 100, delays are longer than
				// asked), and how fast the local APIC's timer counts, which in QEMU is 1 GHz.
				line += fmt.Sprintf(" lpj=%d lapic_timer_hz=1000000000", khz*1000/100)
			}
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
	// xattr: capabilities of files. system: access lists above all, which FUSE of Linux 6.1 lets anybody set on any file, and virtiofsd sets as root. The sandbox of namespaces needs rights that
	// the box does not have, and the box has them all already.
	v.fs = exec.Command(m.VirtioFS, "--fd=3", "-o", "source="+m.Tree, "-o", "sandbox=chroot", "-o", "cache=auto", "-o", "xattr", "-o", "xattrmap=:unsupported:all:system.:system.::ok:all:::",
		"-o", "log_level=err", "-o", "announce_submounts", "--rlimit-nofile=0")
	v.fs.Env, v.fs.Dir, v.fs.ExtraFiles = []string{"PATH=/usr/bin:/bin"}, "/", []*os.File{listener}
	v.fs.Stdout, v.fs.Stderr = log, log
	v.fs.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := v.fs.Start
	if strings.HasPrefix(m.VirtioFS, "/usr/lib/qemu/") { // QEMU's own; the one in Rust sees to it itself
		start = func() error { return startWithRights(v.fs) }
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("%w: Debian's package qemu-system-common has it", err)
	}
	f, err := c.File()
	if err != nil {
		return nil, err
	}
	return f, nil
}

// startWithRights starts a program that keeps its capabilities when it acts as another user. QEMU's virtiofsd makes files as whom the guest names, without that one's further groups, of which it is
// not told, and could make none where only such a group may write. The guest's kernel decides whether the user may, and, since Linux 6.0, whether a file keeps its set-group-ID bit.
func startWithRights(c *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and what it was given with it
		done <- func() error {
			const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP of linux/securebits.h: capabilities(7)
			if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
				return os.NewSyscallError("prctl(PR_SET_SECUREBITS)", err)
			}
			return c.Start()
		}()
	}()
	return <-done
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

// beginning is what a machine begins with.
type beginning struct {
	pc      bool     // its kernel needs one
	ramdisk *os.File // its first program, and modules that go with the kernel
}

func (b *beginning) close() { b.ramdisk.Close() }

// beginningOf makes the initial ramdisk, in memory: the agent as /init, and behind it what goes with the kernel.
func beginningOf(m *wire.Machine) (*beginning, error) {
	k, pc, modules, err := kernel.Open(m.Kernel)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	in, err := os.Open(m.Guest)
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
	w := ramdisk.NewWriter(f)
	w.Dir("dev")
	w.Device("dev/console", 5, 1)
	w.Dir("new")
	w.File("init", 0o755, info.Size(), in)
	err = w.Close()
	if err == nil && modules != nil {
		_, err = io.Copy(f, modules)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &beginning{pc: pc, ramdisk: f}, nil
}

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
