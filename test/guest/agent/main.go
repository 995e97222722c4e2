// Command agent runs commands and writes files in the test guest, for the host at the other end of a virtio-serial port (package
// brig/test/guest/wire). systemd keeps it running there; it is no program of Brig's own.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// portName is the name that QEMU was told to give the port.
const portName = "brig.agent"

func main() {
	path, err := port("/sys/class/virtio-ports")
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	// A raw descriptor: reads block in the kernel, and a port without a host is an end of file that passes.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Fprintf(os.Stderr, "agent: open %s: %v\n", path, err)
		os.Exit(1)
	}
	rw := patient{os.NewFile(uintptr(fd), path)}
	newServer(rw, machine{}).serve()
}

// port finds the device of the port by its name.
func port(class string) (string, error) {
	names, err := filepath.Glob(filepath.Join(class, "*/name"))
	if err != nil {
		return "", err
	}
	for _, file := range names {
		b, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(b)) == portName {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", fmt.Errorf("no virtio-serial port named %s in %s", portName, class)
}

// patient is a port whose host may be away: it waits for the next one.
type patient struct{ f *os.File }

func (p patient) Read(b []byte) (int, error) {
	for {
		n, err := p.f.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (p patient) Write(b []byte) (int, error) { return p.f.Write(b) }

// machine is what a greeting changes: tests put another in its place.
type machine struct{}

// setClock sets the time, nanoseconds of the epoch.
func (machine) setClock(ns int64) error {
	ts := unix.NsecToTimespec(ns)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// reseed mixes randomness in and has the kernel use it at once: clones of one snapshot would draw the same otherwise (random(4)).
func (machine) reseed(seed []byte) error {
	const addEntropy, reseedNow = 0x40085203, 0x5207 // RNDADDENTROPY, RNDRESEEDCRNG of linux/random.h
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	pool := struct {
		bits, size int32
		seed       [64]byte
	}{}
	n := copy(pool.seed[:], seed)
	pool.bits, pool.size = int32(8*n), int32(n)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), addEntropy, uintptr(unsafe.Pointer(&pool))); e != 0 {
		return fmt.Errorf("add entropy: %w", e)
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), reseedNow, 0); e != 0 {
		return fmt.Errorf("reseed: %w", e)
	}
	return nil
}
