// Package procimage saves a process and starts others that go on where it was: its memory, its threads, and the files that it has open, by their numbers.
//
// It is for one program, an emulator that was stopped by its own means: it waits, in each of its threads, in a system call that can be made again. It has no children, no timers of the
// kernel's, and no other files than such as can be made anew (eventfd, signalfd, empty epoll, /dev/null) or as are given to each process that starts: its connections, and the file with
// its guest's memory. What it has beyond that is refused by name when it is saved.
//
// A process is saved by ptrace(2). It is started without: a program of 200 bytes (stub) is executed, reads a list of system calls (script) from its standard input, and makes them: they map
// the memory, privately, from files that all processes of the image share; make the threads; and end, in each thread, by rt_sigreturn(2), which sets all registers at once.
//
// An image is of use on the machine, and in the boot, in which it was saved: the kernel's vDSO is taken to be the same.
package procimage

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Image is a saved process, but for the contents of its pages.
type Image struct {
	Name    string // what its threads' first is called
	Areas   []Area `json:"-"` // see form
	Runs    []Run  `json:"-"`
	Files   []File
	Threads []Thread // the first is the process's first
	Actions []Action
	Layout  [11]uint64 // struct prctl_mm_map of prctl(2), up to env_end
	Soon    []Range    `json:"-"` // memory that processes soon write to
}

// Range is a part of the memory.
type Range struct{ Start, Len uint64 }

// Area is a mapping.
type Area struct {
	Start, End uint64
	Prot       int
	Grows      bool     // it is a stack that grows
	Huge       bool     // it asked for large pages
	Special    string   // its name, where it is the kernel's own: [vdso] and others
	Memory     bool     // it is of the file with the guest's memory
	Program    *Program // it is of this file
	Offset     uint64   // in the file
}

// Program is a file that the process has mapped, and how it is known to be the same.
type Program struct {
	Path     string
	Ino      uint64
	Size     int64
	Modified int64 // nanoseconds of the epoch
}

// Run are pages that are not what their area would have: they are in the file of pages.
type Run struct {
	Area   int // index
	Start  uint64
	Len    uint64
	Offset uint64
}

// Kinds of files.
const (
	kindGiven   = "given"   // whoever starts a process gives it
	kindMemory  = "memory"  // the guest's memory
	kindNull    = "null"    // /dev/null
	kindEvent   = "event"   // an eventfd
	kindSignals = "signals" // a signalfd
	kindPoll    = "poll"    // an epoll that has nothing in it
)

// File is an open file.
type File struct {
	FD        int
	Kind      string
	Flags     int    `json:",omitempty"` // of its status
	Value     uint64 `json:",omitempty"` // the count of an eventfd, the set of a signalfd
	Semaphore bool   `json:",omitempty"` // of an eventfd
}

// Thread is one.
type Thread struct {
	Name              string
	Regs              []byte // struct user_regs_struct
	State             []byte // NT_X86_XSTATE
	Blocked           uint64 // signals
	TIDAddress        uint64 // set_tid_address(2)
	Robust, RobustLen uint64
	Rseq              uint64
	RseqLen, RseqSig  uint32
	Stack             [3]uint64 // sigaltstack(2)
}

// Action is what the process does about a signal, as struct sigaction of the kernel's.
type Action struct {
	Signal int
	Act    [4]uint64
}

// Wants reports whether a descriptor is one that whoever starts a process gives.
func (img *Image) Wants(fd int) bool {
	return slices.ContainsFunc(img.Files, func(f File) bool { return f.FD == fd && f.Kind == kindGiven })
}

// check reports what is missing in an image.
func (img *Image) check() error {
	if len(img.Threads) == 0 {
		return errors.New("the image of a process has no threads")
	}
	for i := range img.Threads {
		if t := &img.Threads[i]; len(t.Regs) != int(unsafe.Sizeof(unix.PtraceRegs{})) || len(t.State) < leastState {
			return fmt.Errorf("the image of a process has no registers of thread %d", i)
		}
	}
	at := 0
	for _, r := range img.Runs {
		if r.Area < at || r.Area >= len(img.Areas) {
			return fmt.Errorf("the image of a process has pages of mapping %d of %d", r.Area, len(img.Areas))
		}
		at = r.Area
	}
	return nil
}

// leastState is the length of a state without anything but what every processor has, in bytes: legacy region and header of XSAVE.
const leastState = 576

var pageSize = uint64(os.Getpagesize())
