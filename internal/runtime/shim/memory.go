package shim

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack returns the memory that setting a container up took: the heap's free pages, and the mapped pages of the program's own file, which
// the kernel maps again from its cache if they are ever needed. An idle shim is what every container costs.
func giveBack() {
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		fields := strings.Fields(line)
		// Only private mappings of a file that are not writable: text and read-only data.
		if len(fields) < 6 || len(fields[1]) < 4 || fields[1][1] == 'w' || fields[1][3] != 'p' || !strings.HasPrefix(fields[5], "/") {
			continue
		}
		lo, hi, ok := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(lo, 16, 64)
		end, err2 := strconv.ParseUint(hi, 16, 64)
		if ok && err1 == nil && err2 == nil {
			unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
		}
	}
}
