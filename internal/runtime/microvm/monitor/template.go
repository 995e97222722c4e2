package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/procimage"
	"brig/internal/runtime/microvm/qmp"
	"brig/internal/runtime/microvm/relay"
	"brig/internal/runtime/microvm/template"
	"brig/internal/runtime/microvm/wire"
)

// A template is a machine that was stopped when its agent knew of nothing: its memory, and QEMU itself, as an image of its process, with all that it has translated. It has the device of the
// tree and one network interface. A machine that starts from it is given connections of its own in their place, further interfaces, and is told who it is like any other: by the frame Boot,
// with randomness of its own.

// thePC are the arguments of a machine that is, or comes from, a template, or has a kernel that needs one.
func thePC(m *wire.Machine) []string {
	return append(common(m), "-machine", "pc,memory-backend=ram,hpet=off,vmport=off,usb=off", "-device", "virtio-serial-pci,disable-legacy=on,vectors=2,ioeventfd=off,"+onePort, "-device", agentPort)
}

// Descriptors of a template's QEMU, after those of theirs.
const (
	filesFD   = firstFile + 2 + iota // the device of the tree
	controlFD                        // QMP
	tapFD                            // its network interface
	ramdiskFD                        // of no use when it has booted
	memoryFD                         // likewise: it has opened the file by then
)

// fsDevice and nicDevice are devices on PCI.
func fsDevice(driver string) string { return driver + ",chardev=fs,tag=" + wire.TreeTag }

const nicDevice = "virtio-net-pci,netdev=net%d,mac=%s,romfile=,disable-legacy=on"

// origin is a template that is open, and its image.
type origin struct {
	*template.Files
	img *procimage.Image
}

// openTemplate opens the one that a machine is to start from. Its error is os.ErrNotExist where there is none.
func openTemplate(m *wire.Machine) (*origin, error) {
	t, err := template.Open(m.Template, m.Memory)
	if err != nil {
		return nil, err
	}
	img, err := procimage.Parse(t.Process)
	if err != nil {
		t.Close()
		return nil, err
	}
	return &origin{Files: t, img: img}, nil
}

// resume starts a machine from a template.
func resume(m *wire.Machine, t *origin, nics []nic) (_ *vm, err error) {
	img := t.img
	v := &vm{late: true}
	defer func() {
		if err != nil {
			v.end()
		}
	}()
	late := nics // those that are plugged in
	var tap *os.File
	switch {
	case !img.Wants(tapFD): // where the template was made none could be had
	case len(nics) > 0:
		tap, late = nics[0].tap, nics[1:]
	default:
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC) // nothing comes of it, and nobody writes to it
		if err != nil {
			return nil, os.NewSyscallError("eventfd", err)
		}
		tap = os.NewFile(uintptr(fd), "no network")
		defer tap.Close()
	}
	ends, err := v.plug(m)
	if err != nil {
		return nil, err
	}
	defer ends.close()
	memory := t.Memory
	shared := onTmpfs(t.Memory)
	if shared {
		if memory, err = copyMemory(t.Memory, m.Memory); err != nil {
			return nil, err
		}
		defer memory.Close()
	}
	filter, err := emulatorFilter()
	if err != nil {
		return nil, err
	}
	begin := procimage.Start{
		Image: img, Pages: t.Pages, Stub: t.Stub, Memory: memory, Shared: shared, Filter: filter, Attr: asQEMU(), Open: openAsQEMU,
		Given: map[int]*os.File{1: ends.console, 2: ends.console, firstFile: ends.agent, firstFile + 1: ends.console, filesFD: ends.files, controlFD: ends.control, tapFD: tap},
	}
	if v.qemu, err = begin.Run(); err != nil {
		return nil, err
	}
	if err := v.relay(ends); err != nil {
		return nil, err
	}
	c, err := ends.connection()
	if err != nil {
		return nil, err
	}
	q, err := qmp.Resume(c, time.Now().Add(resumeTime)) // from now on the machine runs
	if err != nil {
		c.Close()
		return nil, err
	}
	defer q.Close()
	for i, n := range late {
		name := "late" + strconv.Itoa(i)
		if err := q.Do("getfd", map[string]any{"fdname": name}, nil, int(n.tap.Fd())); err != nil {
			return nil, err
		}
		if err := q.Do("netdev_add", map[string]any{"type": "tap", "id": name, "fd": name}, nil); err != nil {
			return nil, err
		}
		if err := q.Do("device_add", map[string]any{"driver": "virtio-net-pci", "netdev": name, "mac": n.link.MAC, "romfile": "", "disable-legacy": "on", "bus": "pci.0"}, nil); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// resumeTime is how long a machine may take to be taken over from a template: many times what it needs.
const resumeTime = 20 * time.Second

// plugs are the ends that QEMU has of a machine's connections, and the monitor's that are of use until it runs.
type plugs struct {
	theirs
	files, control           *os.File // QEMU's
	device, served, commands *os.File // the other ends: of the device of the tree, its server, QMP
}

func (p *plugs) close() {
	if p.agent != nil {
		p.theirs.close()
	}
	for _, f := range []*os.File{p.files, p.control, p.device, p.served, p.commands} {
		if f != nil {
			f.Close()
		}
	}
}

// plug makes the connections of a machine that is a template, or comes from one, and starts the server of its files.
func (v *vm) plug(m *wire.Machine) (p *plugs, err error) {
	p = &plugs{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.theirs, err = v.connect(); err != nil {
		return p, err
	}
	if p.device, p.files, err = socketpair(); err != nil {
		return p, err
	}
	if p.commands, p.control, err = socketpair(); err != nil {
		return p, err
	}
	if p.served, err = v.serveFiles(m, p.console); err != nil {
		return p, fmt.Errorf("the server of the container's files: %w", err)
	}
	return p, nil
}

// relay begins to pass on what the machine, which runs as v.qemu, asks of the server of its files.
func (v *vm) relay(p *plugs) error {
	all, err := openMemory(v.qemu.Process.Pid)
	if err != nil {
		return err
	}
	r, err := relay.New(p.device, p.served, all)
	if err != nil {
		all.Close()
		return err
	}
	v.relayed = make(chan error, 1)
	go func() {
		v.relayed <- r.Serve()
		all.Close()
	}()
	return nil
}

// connection is the monitor's of QMP. QEMU's end is given up, so that its own is heard of.
func (p *plugs) connection() (*net.UnixConn, error) {
	p.control.Close()
	c, err := net.FileConn(p.commands)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// onTmpfs reports whether a file is in memory. Where it is, a hole that is mapped becomes a page that stays, as soon as it is touched.
func onTmpfs(f *os.File) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}

// copyMemory is a file of a machine's own with what there is in one with holes, of so many bytes.
func copyMemory(from *os.File, size int64) (_ *os.File, err error) {
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	to := os.NewFile(uintptr(fd), "memory")
	defer func() {
		if err != nil {
			to.Close()
		}
	}()
	if err := to.Truncate(size); err != nil {
		return nil, err
	}
	dst, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(dst) //nolint:errcheck // it was mapped
	for at := int64(0); ; {
		begin, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return to, nil
		}
		if err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		if at, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE); err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		if _, err := from.ReadAt(dst[begin:at], begin); err != nil {
			return nil, err
		}
	}
}

// saveTime is how long a template may take to be made: an emulator on a busy machine takes its time to boot.
const saveTime = 4 * time.Minute

// settleTime is what a machine is given, once its agent has nothing to do, to be done with what the kernel leaves for later.
const settleTime = 300 * time.Millisecond

// save makes a template, and starts a machine from it: the first program of a box that is made for it. It ends when who has it made does.
func save() error {
	begun := now()
	var m wire.Machine
	if err := json.Unmarshal([]byte(os.Getenv(wire.MachineVar)), &m); err != nil {
		return fmt.Errorf("%s: %w", wire.MachineVar, err)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // any end is one
		os.Exit(exitFailed)
	}()
	time.AfterFunc(saveTime, func() {
		fmt.Fprintln(os.Stderr, "the machine did not start in", saveTime)
		os.Exit(exitFailed)
	})
	if err := nobodysTree(&m); err != nil {
		return err
	}
	t, err := template.Create(m.Template, m.Memory)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Memory.Chown(qemuUser, qemuUser); err != nil {
		return err
	}
	if err := boot(&m, t, begun); err != nil {
		return err
	}
	if err := t.Memory.Chown(0, 0); err != nil {
		return err
	}
	if err := t.Thin(); err != nil {
		return err
	}
	if err := t.Seal(m.Template); err != nil {
		return err
	}
	if err := try(&m, t); err != nil {
		return err
	}
	return t.Seal(m.Template)
}

// nobodysTree makes the tree of a container that is nobody's. The agent's program is in it.
func nobodysTree(m *wire.Machine) error {
	for _, dir := range []string{"", "/proc", "/sys", "/dev", "/etc", "/tmp"} {
		if err := os.MkdirAll(m.Tree+dir, 0o755); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(m.Guest)
	if err != nil {
		return err
	}
	return os.WriteFile(m.Tree+rehearsed, b, 0o755)
}

// rehearsed is the program of that container.
const rehearsed = "/agent"

// boot starts a machine, rehearses with it, and saves it.
func boot(m *wire.Machine, t *template.Files, begun stamp) (err error) {
	first, err := beginningOf(m)
	if err != nil {
		return err
	}
	defer first.close()
	v := &vm{}
	defer v.end()
	ends, err := v.plug(m)
	if err != nil {
		return err
	}
	defer ends.close()
	args := append(thePC(m), "-name", "template", "-kernel", m.Kernel, "-initrd", fmt.Sprintf("/proc/self/fd/%d", ramdiskFD), "-append", commandLine(m, first.pc, true, begun),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=/proc/self/fd/%d,share=on", m.Memory, memoryFD),
		"-chardev", fmt.Sprintf("socket,id=fs,fd=%d", filesFD), "-device", fsDevice("vhost-user-fs-pci"),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", controlFD), "-mon", "chardev=qmp,mode=control")
	nics := maybeTap()
	files := []*os.File{ends.agent, ends.console, ends.files, ends.control, nil, first.ramdisk, t.Memory}
	for i, n := range nics {
		defer n.tap.Close()
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, tapFD), "-device", fmt.Sprintf(nicDevice, i, wire.NICAddress))
		files[tapFD-firstFile] = n.tap
	}
	if err := v.start(m, args, files); err != nil {
		return err
	}
	ends.theirs.close()
	if err := v.relay(ends); err != nil {
		return err
	}
	var console tail
	go io.Copy(&console, v.console) //nolint:errcheck // it ends with the machine
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w; the machine's console said last:\n%s", err, console.String())
		}
	}()
	f, err := wire.Read(v.channel, wire.MaxBody, nil)
	if err == nil && f.Kind != wire.Hello {
		err = errors.New("its agent does not say hello")
	}
	if err != nil {
		return fmt.Errorf("the machine did not start: %w", err)
	}
	for i := range rehearsals {
		if err := v.rehearse(m, nics, i > 0); err != nil {
			return err
		}
		if err := v.order(wire.Frame{Kind: wire.Rest}, wire.Rested); err != nil {
			return err
		}
	}
	time.Sleep(settleTime)
	c, err := ends.connection()
	if err != nil {
		return err
	}
	q, err := qmp.Dial(c, time.Now().Add(saveTime))
	if err != nil {
		return err
	}
	defer q.Close()
	if err := q.Do("stop", nil, nil); err != nil {
		return err
	}
	if err := q.Begin("cont"); err != nil {
		return err
	}
	given := []int{1, 2, firstFile, firstFile + 1, filesFD, controlFD}
	if len(nics) > 0 {
		given = append(given, tapFD)
	}
	img, err := procimage.Save(&procimage.Subject{PID: v.qemu.Process.Pid, Given: given, Closed: []int{ramdiskFD, memoryFD}, Memory: t.Memory}, t.Pages)
	if err != nil {
		return err
	}
	t.Process, err = img.Encode()
	return err
}

// rehearsals is how many containers a template has had. The second finds the machine as the first of the user's does.
const rehearsals = 2

// maybeTap is a network interface that leads nowhere; none where there can be none.
func maybeTap() []nic {
	tap, err := openTap("nowhere")
	if err != nil {
		return nil
	}
	return []nic{{tap: tap, link: wire.Link{
		Name: "eth0", MAC: wire.NICAddress, MTU: 1500, Addrs: []string{"192.0.2.2/24", "2001:db8::2/64"},
		Routes: []wire.Route{{Dst: "192.0.2.0/24"}, {Dst: "0.0.0.0/0", Gateway: "192.0.2.1"}},
	}}}
}

// rehearse has the machine be one for a container that is nobody's, to its end. A late one was one before.
func (v *vm) rehearse(m *wire.Machine, nics []nic, late bool) error {
	settings := wire.Settings{Time: time.Now().UnixNano(), Seed: seed(), DNS: true, Late: late}
	for _, n := range nics {
		if late {
			n.link.MAC = "52:54:00:00:00:02" // as that of a container is another than the template's
		}
		settings.Links = append(settings.Links, n.link)
	}
	if err := v.say(wire.Frame{Kind: wire.Boot, Body: settings.Encode()}); err != nil {
		return err
	}
	if err := v.order(wire.Frame{Kind: wire.Start, Stream: wire.First, Body: m.Rehearsal}, wire.Exit); err != nil {
		return fmt.Errorf("a rehearsal: %w", err)
	}
	return nil
}

func (v *vm) say(f wire.Frame) error {
	_, err := v.channel.Write(wire.Append(nil, f))
	return err
}

// order sends a frame and reads on until one of a kind comes. The program that a machine runs meanwhile ends well.
func (v *vm) order(f wire.Frame, until wire.Kind) error {
	if err := v.say(f); err != nil {
		return err
	}
	var said []byte
	for {
		f, err := wire.Read(v.channel, wire.MaxBody, nil)
		if err == nil {
			err = f.Check()
		}
		switch {
		case err != nil:
			return err
		case f.Kind == wire.Failed:
			_, err := failure(f.Body)
			return err
		case f.Kind == wire.Exit && f.Body[0]|f.Body[1] != 0:
			return fmt.Errorf("its program ended with %d, %d: %s", f.Body[0], f.Body[1], said)
		case f.Kind == wire.Stdout, f.Kind == wire.Stderr:
			said = append(said, f.Body...)
		}
		if f.Kind == until {
			return nil
		}
	}
}

// try starts a machine from the template that was made, and rehearses with it, briefly: what it writes to others will.
func try(m *wire.Machine, t *template.Files) error {
	nics := maybeTap()
	for _, n := range nics {
		defer n.tap.Close()
	}
	if err := os.WriteFile(m.Tree+wire.BriefPath, nil, 0o644); err != nil {
		return err
	}
	from, err := openTemplate(m)
	if err != nil {
		return err
	}
	defer from.Close()
	v, err := resume(m, from, nics)
	if err != nil {
		return err
	}
	defer v.end()
	go io.Copy(io.Discard, v.console) //nolint:errcheck // it ends with the machine
	if err := v.rehearse(m, nics, true); err != nil {
		return err
	}
	if err := from.img.Learn(v.qemu.Process.Pid); err != nil {
		return err
	}
	t.Process, err = from.img.Encode()
	return err
}

// asQEMU is whom QEMU runs as.
func asQEMU() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: qemuUser, Gid: qemuUser}}
}
