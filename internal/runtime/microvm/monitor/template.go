package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/qmp"
	"brig/internal/runtime/microvm/relay"
	"brig/internal/runtime/microvm/template"
	"brig/internal/runtime/microvm/wire"
)

// A template is a machine that was stopped when its agent had said Hello and knew of nothing yet: its memory, and the state of its devices. A machine that starts from
// it takes both over, gets its own devices (the tree, its network interfaces), and is told who it is like any other: by the frame Boot, with randomness of its own.
//
// Only a device that QEMU can be given while it runs may be missing in a template, and come later: such are devices on PCI, in QEMU's machine "pc".

// thePC are the arguments of a machine that is, or comes from, a template, or has a kernel that needs one.
func thePC(m *wire.Machine) []string {
	return append(common(m), "-machine", "pc,memory-backend=ram,hpet=off,vmport=off,usb=off", "-device", "virtio-serial-pci,disable-legacy=on,vectors=2", "-device", agentPort)
}

// resumeTime is how long a machine may take to be taken over from a template: many times what it needs.
const resumeTime = 20 * time.Second

// resume starts a machine from a template.
func resume(m *wire.Machine, nics []nic) (_ *vm, err error) {
	t, err := template.Open(m.Template, m.Memory)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	v := &vm{late: true}
	ends, err := v.connect()
	if err != nil {
		return nil, err
	}
	defer ends.close()
	defer func() {
		if err != nil {
			v.end()
		}
	}()
	fs, err := v.serveFiles(m, ends.console)
	if err != nil {
		return nil, fmt.Errorf("the server of the container's files: %w", err)
	}
	defer fs.Close()
	control, theirControl, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirControl.Close()
	memory, share := t.Memory, "off"
	if onTmpfs(t.Memory) {
		if memory, err = copyMemory(t.Memory, m.Memory); err != nil {
			return nil, err
		}
		defer memory.Close()
		share = "on"
	}
	device, theirDevice, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer device.Close()
	defer theirDevice.Close()
	files := []*os.File{ends.agent, ends.console, t.State, theirDevice, theirControl}
	args := append(thePC(m), "-option-rom", "pvh.bin", "-incoming", "defer",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,share=%s", m.Memory, memoryName, share),
		"-chardev", fmt.Sprintf("socket,id=fs,fd=%d", firstFile+3),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", firstFile+4), "-mon", "chardev=qmp,mode=control")
	listener, err := asking(func() error { return v.start(m, args, files) })
	if err != nil {
		return nil, err
	}
	theirControl.Close() // so that QEMU's end is heard of
	all, err := giveMemory(listener, v.qemu.Process.Pid, memory)
	if err != nil {
		return nil, err
	}
	r, err := relay.New(device, fs, all)
	if err != nil {
		all.Close()
		return nil, err
	}
	v.relayed = make(chan error, 1)
	go func() {
		v.relayed <- r.Serve()
		all.Close()
	}()
	q, err := speak(control, resumeTime)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	if err := ignoreShared(q); err != nil {
		return nil, err
	}
	if err := q.Do("migrate-incoming", map[string]any{"uri": "fd:" + strconv.Itoa(firstFile+2)}, nil); err != nil {
		return nil, err
	}
	for state := "inmigrate"; state != "paused"; {
		var s struct{ Status string }
		if err := q.Do("query-status", nil, &s); err != nil {
			return nil, err
		}
		if state = s.Status; state == "inmigrate" {
			time.Sleep(time.Millisecond)
		} else if state != "paused" {
			return nil, fmt.Errorf("the machine of a template is in state %q", state)
		}
	}
	plug := func(device map[string]any) error {
		device["bus"] = "pci.0"
		return q.Do("device_add", device, nil)
	}
	if err := plug(map[string]any{"driver": "vhost-user-fs-pci", "chardev": "fs", "tag": wire.TreeTag}); err != nil {
		return nil, err
	}
	for i, n := range nics {
		name := "net" + strconv.Itoa(i)
		if err := q.Do("getfd", map[string]any{"fdname": name}, nil, int(n.tap.Fd())); err != nil {
			return nil, err
		}
		if err := q.Do("netdev_add", map[string]any{"type": "tap", "id": name, "fd": name}, nil); err != nil {
			return nil, err
		}
		if err := plug(map[string]any{"driver": "virtio-net-pci", "netdev": name, "mac": n.link.MAC, "romfile": "", "disable-legacy": "on"}); err != nil {
			return nil, err
		}
	}
	return v, q.Do("cont", nil, nil)
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

// speak speaks QMP at the other end of a socket that QEMU has.
func speak(f *os.File, limit time.Duration) (*qmp.Client, error) {
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	q, err := qmp.Dial(c.(*net.UnixConn), time.Now().Add(limit))
	if err != nil {
		c.Close()
	}
	return q, err
}

// ignoreShared keeps memory that is a file out of the state.
func ignoreShared(q *qmp.Client) error {
	return q.Do("migrate-set-capabilities", map[string]any{"capabilities": []map[string]any{{"capability": "x-ignore-shared", "state": true}}}, nil)
}

// saveTime is how long a template may take to be made: an emulator on a busy machine takes its time to boot.
const saveTime = 4 * time.Minute

// settleTime is what a machine is given, once its agent is there, to be done with what the kernel leaves for later.
const settleTime = 300 * time.Millisecond

// save makes a template: the first program of a box that is made for it. It ends when who has it made does.
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
	t, err := boot(&m, begun)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Memory.Chown(0, 0); err != nil { // it was QEMU's
		return err
	}
	return t.Seal(m.Template)
}

// boot starts a machine without devices and saves it when its agent is there.
func boot(m *wire.Machine, begun stamp) (*template.Files, error) {
	first, err := beginningOf(m)
	if err != nil {
		return nil, err
	}
	defer first.close()
	t, err := template.Create(m.Template, m.Memory)
	if err != nil {
		return nil, err
	}
	if err := t.Memory.Chown(qemuUser, qemuUser); err != nil {
		return nil, err
	}
	v := &vm{}
	ends, err := v.connect()
	if err != nil {
		return nil, err
	}
	control, theirControl, err := socketpair()
	if err != nil {
		return nil, err
	}
	args := append(thePC(m), "-kernel", m.Kernel, "-initrd", fmt.Sprintf("/proc/self/fd/%d", firstFile+2), "-append", commandLine(m, begun),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=/proc/self/fd/%d,share=on", m.Memory, firstFile+4),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", firstFile+3), "-mon", "chardev=qmp,mode=control")
	if err := v.start(m, args, []*os.File{ends.agent, ends.console, first.ramdisk, theirControl, t.Memory}); err != nil {
		return nil, err
	}
	ends.close()
	theirControl.Close()
	defer v.end()
	var console tail
	go io.Copy(&console, v.console) //nolint:errcheck // it ends with the machine
	f, err := wire.Read(v.channel, wire.MaxBody, nil)
	if err == nil && f.Kind != wire.Hello {
		err = errors.New("its agent does not say hello")
	}
	if err != nil {
		return nil, fmt.Errorf("the machine did not start: %w; its console said last:\n%s", err, console.String())
	}
	time.Sleep(settleTime)
	q, err := speak(control, saveTime)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	if err := q.Do("stop", nil, nil); err != nil {
		return nil, err
	}
	if err := ignoreShared(q); err != nil {
		return nil, err
	}
	const name = "state"
	if err := q.Do("getfd", map[string]any{"fdname": name}, nil, int(t.State.Fd())); err != nil {
		return nil, err
	}
	if err := q.Do("migrate", map[string]any{"uri": "fd:" + name}, nil); err != nil {
		return nil, err
	}
	for {
		var s struct {
			Status string
			Error  string `json:"error-desc"`
		}
		if err := q.Do("query-migrate", nil, &s); err != nil {
			return nil, err
		}
		switch s.Status {
		case "completed":
			return t, nil
		case "failed", "cancelled":
			return nil, fmt.Errorf("saving the machine: %s %s", s.Status, s.Error)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
