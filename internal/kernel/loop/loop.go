// Package loop attaches files as block devices: loop(4). A device frees itself when nobody has it open or mounted any more (LO_FLAGS_AUTOCLEAR), so
// none is left by a process that was killed.
package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// tries is how often a free device is asked for: another process may be quicker.
const tries = 64

// Attach returns the device of a file, open, which keeps it attached: the one that it has, whoever attached it and in whatever mount namespace, else a new one. A file must never
// have two: two file systems that do not know of each other would write into it. So the caller holds a lock of the file's.
func Attach(file *os.File) (*os.File, error) {
	if dev, err := Find(file); dev != nil || err != nil {
		return dev, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, api.Errorf(api.Unsupported, "loop device: %w: `modprobe loop`, or let this container have /dev/loop-control", err)
	}
	defer control.Close()
	for range tries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("loop device: %w", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("loop device: %w", err)
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:unix.LO_NAME_SIZE-1], file.Name())
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%s: %w", dev.Name(), err)
		}
	}
	return nil, api.Errorf(api.Exhausted, "loop device: each that was free was taken at once, %d times", tries)
}

// Find returns the device that a file has, open; nil: none.
func Find(file *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		name, _, _ := strings.Cut(strings.TrimPrefix(path, "/sys/block/"), "/")
		dev, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // freed meanwhile
		}
		info, err := unix.IoctlLoopGetStatus64(int(dev.Fd())) // asked while it is open: now it stays
		if err == nil && info.Device == st.Dev && info.Inode == st.Ino {
			return dev, nil
		}
		dev.Close()
	}
	return nil, nil
}

// Resized has a device take the size that its file has now.
func Resized(dev *os.File) error {
	return os.NewSyscallError("ioctl LOOP_SET_CAPACITY", unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0))
}
