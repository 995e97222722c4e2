package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a file system in a file, on a loop device that does not cache, so that what the kernel has of it in memory can be dropped
// without touching the rest of the machine: by mounting it anew.
type disk struct {
	file, dir string
}

// newDisk makes an empty ext4 in file and mounts it at dir.
func (b *bench) newDisk(file, dir string) (*disk, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	err = f.Truncate(12 << 30) // most of it is never written
	f.Close()
	if err != nil {
		return nil, err
	}
	if err := b.do("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", file); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d := &disk{file, dir}
	return d, d.mount()
}

// mount attaches the disk; the loop device goes with the mount.
func (d *disk) mount() error {
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", d.file).CombinedOutput()
	device := strings.TrimSpace(string(out))
	if err != nil {
		return fmt.Errorf("losetup %s: %w: %s", d.file, err, device)
	}
	err = unix.Mount(device, d.dir, "ext4", 0, "")
	_ = exec.Command("losetup", "--detach", device).Run() // while it is mounted: when it is not any more
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", device, d.dir, err)
	}
	return nil
}

// unmount waits five seconds for what the last container may still hold.
func (d *disk) unmount() (err error) {
	unmountBelow(d.dir)
	for range 100 {
		if err = unix.Unmount(d.dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	return nil
}

// close takes the disk away, even if somebody holds it.
func (d *disk) close() {
	unmountBelow(d.dir)
	_ = unix.Unmount(d.dir, unix.MNT_DETACH)
	_ = os.Remove(d.file)
}

// fresh calls f with the engines started anew on an empty file system. Removing the images between rounds instead would not do: ext4 does
// not use an inode again for one to five minutes after it was freed (recently_deleted in fs/ext4/ialloc.c) and looks at each of them
// whenever it wants a new one, which took 30 % of a pull that came after the removal of another image.
func (b *bench) fresh(f func(*bench) error) (err error) {
	d, err := b.newDisk(filepath.Join(b.dir, "fresh.disk"), filepath.Join(b.dir, "fresh"))
	if d != nil {
		defer d.close()
	}
	if err != nil {
		return err
	}
	in := &bench{ctx: b.ctx, dir: d.dir, bin: b.bin, rounds: b.rounds, archive: b.archive, rootfs: b.rootfs}
	defer func() {
		for i := len(in.engines) - 1; i >= 0; i-- {
			in.engines[i].close()
		}
	}()
	names := map[string]bool{}
	for _, e := range b.pullers() {
		names[e.name] = true
	}
	in.open(func(name string) bool { return names[name] })
	if len(in.engines) != len(names) {
		return fmt.Errorf("%d of %d engines start again", len(in.engines), len(names))
	}
	return f(in)
}
