package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/netlink"
	"brig/internal/runtime/microvm/wire"
)

// A machine that becomes a template runs containers that are nobody's before it is saved: whatever an emulator has to translate for the first container of a machine is translated by then, and
// saved with it.

// rest has the machine be as it was before its container, which has ended.
func (a *agent) rest() error {
	<-a.networked
	a.mu.Lock()
	main, dns := a.main, a.dns
	a.main, a.dns = nil, nil
	a.mu.Unlock()
	if dns != nil {
		dns.close()
	}
	if main != nil {
		if g := main.made.Cgroup; g != nil {
			if err := g.Remove(); err != nil {
				return err
			}
		}
		if err := unix.Unmount(treeDir, 0); err != nil { // so that who serves the files hears of it
			return fmt.Errorf("unmounting the container's tree: %w", err)
		}
	}
	if err := a.putAway(); err != nil {
		return err
	}
	if err := clearFree(); err != nil {
		return err
	}
	runtime.GC() // for the next one, then, it is a while before there is anything to collect
	return nil
}

// clearFree has the kernel clear memory that is free, by using it. An emulator that has translated what a page had in it before drops those blocks one by one, as the words of the page are
// written: that is not to be when the page is given to the next container.
func clearFree() error {
	const most = 64 << 20 // many times what the programs of a rehearsal take: what was freed last is used first
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	b, err := unix.Mmap(-1, 0, int(min(info.Freeram*uint64(info.Unit)/2, most)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // what is left over is small; a kernel without large pages does not know it
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 0
	}
	return os.NewSyscallError("munmap", unix.Munmap(b))
}

// putAway takes the template's interface from its driver: the one that it is given next begins anew with the device, and so with what the device is connected to by then.
func (a *agent) putAway() error {
	if a.nic != "" {
		if a.away {
			return nil
		}
		a.away = true
		return a.drive("unbind")
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	links, err := byMAC(c)
	c.Close()
	if err != nil {
		return err
	}
	l, ok := links[wire.NICAddress]
	if !ok {
		return nil
	}
	device, err := os.Readlink("/sys/class/net/" + l.Name + "/device")
	if err != nil {
		return err
	}
	a.nic, a.away = filepath.Base(device), true
	return a.drive("unbind")
}

// drive has the driver of the template's interface take it ("bind") or leave it ("unbind").
func (a *agent) drive(verb string) error {
	return os.WriteFile("/sys/bus/virtio/drivers/virtio_net/"+verb, []byte(a.nic), 0)
}

// interfaces has the kernel find a template's machine's interfaces: the first is the one that the template had, where it had one, and gets the MAC of the link.
func (a *agent) interfaces(links []wire.Link) error {
	known := 0
	if a.nic != "" && len(links) > 0 { // before the others, which would take its name
		known = 1
		if err := a.drive("bind"); err != nil {
			return fmt.Errorf("network interface %s: %w", links[0].Name, err)
		}
		a.away = false
		if err := setMAC(wire.NICAddress, links[0].MAC); err != nil {
			return err
		}
	}
	if len(links) == known {
		return nil
	}
	return os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0)
}

// rehearse is the program of a container that is nobody's: it does what programs begin with, or, where it is to be brief, nothing.
func rehearse() int {
	if _, err := os.Lstat(wire.BriefPath); err == nil {
		return 0
	}
	if err := walkOn(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func walkOn() error {
	if _, err := os.ReadDir("/"); err != nil {
		return err
	}
	for _, name := range []string{"/tmp/file", "/dev/shm/file"} {
		if err := os.WriteFile(name, []byte("text"), 0o644); err != nil {
			return err
		}
		if err := os.Rename(name, name+"2"); err != nil {
			return err
		}
		if b, err := os.ReadFile(name + "2"); err != nil || string(b) != "text" {
			return errors.Join(err, fmt.Errorf("%s2 has %q", name, b))
		}
		if err := os.Remove(name + "2"); err != nil {
			return err
		}
	}
	child := exec.Command("/proc/self/exe") // which says that it does nothing here
	var said bytes.Buffer
	child.Stderr = &said
	if err := child.Run(); err == nil || said.Len() == 0 {
		return errors.Join(err, fmt.Errorf("a process of its own says %q", said.String()))
	}
	_, err := io.WriteString(os.Stdout, ".") // to be taken by the monitor
	return err
}
