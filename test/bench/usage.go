package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// load is the machine's load average over a minute, five and fifteen.
func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(data))[:min(3, len(strings.Fields(string(data))))], " ")
}

// pids are the processes whose program is among names and whose command line names a file below dir: not those of another bench.
func pids(names []string, dir string) []int {
	if len(names) == 0 {
		return nil
	}
	var out []int
	for pid := range pss(names) {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), dir+"/") {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// cpuOf is the processor time that processes and the children that they waited for have used: fields 14 to 17 of proc(5)'s stat, in
// hundredths of a second.
func cpuOf(pids []int) time.Duration {
	var ticks int64
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(data), ") ") // the program's name may hold spaces
		if f := strings.Fields(rest); len(f) > 14 {
			for _, s := range f[11:15] {
				n, _ := strconv.ParseInt(s, 10, 64)
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// highWater is the most memory in bytes that a process had since its clear_refs was told 5.
func highWater(pid int) int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// diskUse is what the files below the folders take on the disk, those with several names once.
func diskUse(dirs []string) int64 {
	var total int64
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // removed meanwhile
			}
			var st syscall.Stat_t
			if syscall.Lstat(path, &st) != nil {
				return nil
			}
			if id := (inode{st.Dev, st.Ino}); st.Nlink > 1 && !d.IsDir() {
				if seen[id] {
					return nil
				}
				seen[id] = true
			}
			total += st.Blocks * 512
			return nil
		})
	}
	return total
}
