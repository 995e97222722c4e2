package shim

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memoryRange is a mapping of the program's own file that is not written to: text and read-only data.
type memoryRange struct{ start, length uintptr }

// giveBack returns the memory that setting a container up took: the heap's free pages, and the mapped pages of the program's own file, which
// the kernel maps again from its cache if they are ever needed. An idle shim is what every container costs. The caller sleeps next.
func (s *server) giveBack() {
	if s.program == nil {
		s.program = programRanges()
		for i := range s.program { // once: of what is narrow already every part would get the flag, and all be joined again
			narrowFaults(&s.program[i])
		}
	}
	if s.garbage { // the collector's own memory is a quarter of a megabyte: one that has only just been executed anew does without
		s.garbage = false
		debug.FreeOSMemory()
		// The collector's workers park a moment after it has returned; what they touch is mapped again.
		time.Sleep(20 * time.Millisecond)
	}
	for _, r := range s.program {
		unix.Syscall(unix.SYS_MADVISE, r.start, r.length, unix.MADV_DONTNEED)
	}
}

// faultWindow is how much of the program one page fault shall map, in bytes.
const faultWindow = 8 << 10

// narrowFaults keeps a page fault from mapping 64 KiB of the program where it needs one page (mm/memory.c: do_fault_around): the kernel stops at the
// end of a memory area, and areas that differ in a flag are not joined. The flag says what a core dump leaves out; there is none of a shim.
func narrowFaults(r *memoryRange) {
	for at := uintptr(0); at+faultWindow <= r.length; at += 2 * faultWindow {
		unix.Syscall(unix.SYS_MADVISE, r.start+at, faultWindow, unix.MADV_DONTDUMP)
	}
}

func programRanges() []memoryRange {
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil
	}
	var list []memoryRange
	for line := range strings.SplitSeq(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 6 || len(fields[1]) < 4 || fields[1][1] == 'w' || fields[1][3] != 'p' || !strings.HasPrefix(fields[5], "/") {
			continue
		}
		lo, hi, ok := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(lo, 16, 64)
		end, err2 := strconv.ParseUint(hi, 16, 64)
		if ok && err1 == nil && err2 == nil {
			list = append(list, memoryRange{uintptr(start), uintptr(end - start)})
		}
	}
	return list
}
