package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// debianEnv names the tarball of a Debian, made before the namespaces are: from inside, no package mirror can be reached.
const debianEnv = "BRIG_BENCH_DEBIAN"

// registryWithDebian starts docker-registry on loopback and pushes a minimal Debian to it; the reference is returned.
func (b *bench) registryWithDebian() (string, error) {
	r, err := machine.StartRegistry(filepath.Join(b.dir, "registry"))
	if err != nil {
		return "", err
	}
	b.engines[0].down = append(b.engines[0].down, r.Stop)
	ref := r.Address + "/debian:bench"
	archive := filepath.Join(b.dir, "debian.tar")
	if err := machine.WriteArchive(archive, ref, os.Getenv(debianEnv)); err != nil {
		return "", err
	}
	return ref, r.Push(archive, ref)
}

// keepers are the programs that stay with a container as long as it lives.
var keepers = []string{"brig", "brig-oci", "conmon", "containerd-shim-runc-v2", "podman", "docker"}

// memory starts idle containers and adds up the proportional set size of the engine's own processes that stayed for them. What runs
// in the containers is not counted, nor are daemons, which are reported beside.
func memory(b *bench, c testcase) error {
	const containers = 8
	fmt.Printf("\n%s (KiB of the engine's own processes, PSS, a container; mean of %d)\n", c.name, containers)
	for _, e := range b.engines {
		if e.start == nil || b.ctx.Err() != nil {
			continue
		}
		before := pss(nil)
		var err error
		for n := range containers {
			if err == nil {
				err = b.do(e.start(fmt.Sprint("bench-m", n), "sleep", "3600")...)
			}
		}
		time.Sleep(time.Second)
		total := int64(0)
		for pid, size := range pss(keepers) {
			if _, old := before[pid]; !old {
				total += size
			}
		}
		for n := range containers {
			_ = b.do(e.remove(fmt.Sprint("bench-m", n))...)
		}
		if err != nil {
			fmt.Printf("  %-12s %v\n", e.name, err)
			continue
		}
		if total == 0 {
			fmt.Printf("  %-12s none of %s found\n", e.name, strings.Join(keepers, ", "))
			continue
		}
		fmt.Printf("  %-12s %8d\n", e.name, total/containers)
	}
	for pid, size := range pss([]string{"dockerd", "containerd"}) {
		fmt.Printf("  (daemon)     %8d  %s\n", size, program(pid))
	}
	return nil
}

// program is what a process was started as. Its file would not do: that of a shim of Brig's is a detached mount, without a name.
func program(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	name, _, _ := strings.Cut(string(line), "\x00")
	return filepath.Base(name)
}

// pss returns the proportional set size in KiB of each process of this PID namespace whose program is among names; nil means any.
func pss(names []string) map[int]int64 {
	out := map[int]int64{}
	mine, _ := os.Readlink("/proc/self/ns/pid")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if ns, _ := os.Readlink(dir + "/ns/pid"); ns != mine || names != nil && !slices.Contains(names, program(pid)) {
			continue
		}
		if size := pssOf(pid); size > 0 {
			out[pid] = size
		}
	}
	return out
}

// pssOf is one process's proportional set size in KiB, 0 where it has none.
func pssOf(pid int) (size int64) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), "Pss:"); ok {
			size, _ = strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			break
		}
	}
	return size
}

// unmountBelow detaches what engines left mounted in dir, deepest first.
func unmountBelow(dir string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var points []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	slices.Sort(points)
	for _, p := range slices.Backward(points) {
		_ = unix.Unmount(p, unix.MNT_DETACH)
	}
}

// groups lists all control groups, which no namespace takes away.
func groups() (map[string]bool, error) {
	out := map[string]bool{}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			out[path] = true
		}
		return nil
	})
	return out, err
}

// peerGroups are the parents under which the peers make control groups; those of the runtimes bear the container's name.
var peerGroups = []string{"docker", "bench", "default", "libpod_parent", "conmon", "brig"}

// removeGroups removes the empty control groups of the peers that were not there before, children first.
func removeGroups(before map[string]bool) {
	now, err := groups()
	if err != nil {
		return
	}
	var paths []string
	for p := range now {
		rel := strings.Split(strings.TrimPrefix(p, "/sys/fs/cgroup/"), "/")
		if !before[p] && len(rel) > 1 && (slices.Contains(peerGroups, rel[1]) || strings.HasPrefix(rel[1], "bench-")) {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	for _, p := range slices.Backward(paths) {
		_ = unix.Rmdir(p)
	}
}
