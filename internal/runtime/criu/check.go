package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/caps"
	"brig/internal/kernel/cgroup"
)

// Restored is what a restore has made, all of it stopped.
type Restored struct {
	pids []int // the first process is the first
}

// Find finds the processes below pid, and those in the container's cgroup.
func Find(pid int, g *cgroup.Group) (*Restored, error) {
	parents := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStatus("/proc/" + e.Name()); err == nil {
			parent, _ := strconv.Atoi(st["PPid"]) //nolint:errcheck // the kernel's
			parents[parent] = append(parents[parent], n)
		}
	}
	r := &Restored{pids: []int{pid}}
	for i := 0; i < len(r.pids); i++ {
		r.pids = append(r.pids, parents[r.pids[i]]...)
	}
	if g != nil {
		inside, err := g.Pids()
		if err != nil {
			return nil, err
		}
		for _, p := range inside {
			if !slices.Contains(r.pids, p) {
				r.pids = append(r.pids, p)
			}
		}
	}
	return r, nil
}

// Kill ends all of it.
func (r *Restored) Kill() { r.signal(unix.SIGKILL) }

// Release lets all of it go on.
func (r *Restored) Release() { r.signal(unix.SIGCONT) }

func (r *Restored) signal(sig unix.Signal) {
	for _, pid := range slices.Backward(r.pids) { // all are stopped: no number is another's
		unix.Kill(pid, sig) //nolint:errcheck // one that was dead when it was dumped is dead
	}
}

// readStatus is proc_pid_status(5).
func readStatus(at string) (map[string]string, error) {
	data, err := os.ReadFile(at + "/status")
	if err != nil {
		return nil, err
	}
	st := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			st[k] = strings.TrimSpace(v)
		}
	}
	return st, nil
}

// refused is an archive that asks for more than the bundle gives.
func refused(format string, args ...any) error {
	return api.Errorf(api.InvalidArgument, "restore refused: "+format+": the checkpoint is not one of this bundle, or was tampered with", args...)
}

// Check holds what criu has made against the bundle: namespaces, cgroups, mounts, and of every thread capabilities, no_new_privs, whether
// a system call filter is in place, and the label. What the filters say is the archive's.
func (r *Restored) Check(s *specs.Spec, bundle string, g *cgroup.Group) error {
	var allowed caps.Set
	if c := s.Process.Capabilities; c != nil {
		allowed = caps.Known(c.Bounding)
	}
	if err := checkNamespaces(s, r.pids[0]); err != nil {
		return err
	}
	for _, pid := range r.pids {
		at := "/proc/" + strconv.Itoa(pid)
		threads, err := os.ReadDir(at + "/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			if err := checkThread(s, at+"/task/"+t.Name(), allowed); err != nil {
				return fmt.Errorf("process %d: %w", pid, err)
			}
		}
		if err := checkBeside(r.pids[0], pid, allowed); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	if err := r.checkCgroups(g); err != nil {
		return err
	}
	return checkMounts(s, bundle, g, r.pids[0], allowed.Has(unix.CAP_SYS_ADMIN))
}

func checkThread(s *specs.Spec, at string, allowed caps.Set) error {
	st, err := readStatus(at)
	if err != nil {
		return err
	}
	if strings.HasPrefix(st["State"], "Z") || strings.HasPrefix(st["State"], "X") {
		return nil
	}
	if !strings.HasPrefix(st["State"], "T") && !strings.HasPrefix(st["State"], "t") {
		return refused("it is not stopped (state %s)", st["State"])
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		n, err := strconv.ParseUint(st[set], 16, 64)
		if err != nil {
			return fmt.Errorf("%s/status: %s: %w", at, set, err)
		}
		if more := caps.Set(n) &^ allowed; more != 0 {
			return refused("it has capabilities that process.capabilities.bounding has not (%s %s)", set, strings.Join(more.Names(), " "))
		}
	}
	if s.Process.NoNewPrivileges && st["NoNewPrivs"] != "1" {
		return refused("it could gain privileges, and process.noNewPrivileges is true")
	}
	if s.Linux.Seccomp != nil && st["Seccomp"] != "2" {
		return refused("it has no system call filter, and linux.seccomp asks for one")
	}
	if want := s.Process.ApparmorProfile; want != "" {
		data, err := os.ReadFile(at + "/attr/current")
		if err != nil {
			return err
		}
		if label, _, _ := strings.Cut(strings.TrimSpace(string(data)), " "); label != want {
			return refused("its AppArmor profile is %q, and process.apparmorProfile is %q", label, want)
		}
	}
	return nil
}

// namespaceFile is the name of a kind of namespace below /proc/PID/ns.
func namespaceFile(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.NetworkNamespace:
		return "net"
	case specs.MountNamespace:
		return "mnt"
	}
	return string(t)
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

func checkNamespaces(s *specs.Spec, pid int) error {
	for _, n := range s.Linux.Namespaces {
		name := namespaceFile(n.Type)
		got, err := inode("/proc/" + strconv.Itoa(pid) + "/ns/" + name)
		if err != nil {
			return err
		}
		here, err := inode("/proc/self/ns/" + name)
		if err != nil {
			return err
		}
		if n.Path == "" && got == here {
			return refused("it is in the host's %s namespace, and linux.namespaces asks for a new one", n.Type)
		}
		if n.Path != "" {
			if want, err := inode(n.Path); err != nil {
				return err
			} else if got != want {
				return refused("it is not in the %s namespace %s", n.Type, n.Path)
			}
		}
	}
	return nil
}

// checkBeside wants no process in a namespace of the host's that the first one is not in. Without CAP_SYS_ADMIN none has made any either.
func checkBeside(first, pid int, allowed caps.Set) error {
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts", "user"} {
		var at [3]uint64
		for i, p := range []string{strconv.Itoa(first), strconv.Itoa(pid), "self"} {
			n, err := inode("/proc/" + p + "/ns/" + name)
			if errors.Is(err, fs.ErrNotExist) { // it is dead
				return nil
			}
			if err != nil {
				return err
			}
			at[i] = n
		}
		if at[0] != at[1] && (at[1] == at[2] || !allowed.Has(unix.CAP_SYS_ADMIN)) {
			return refused("it is not in the %s namespace of the container", name)
		}
	}
	return nil
}

// checkCgroups wants every process in the container's cgroup or below it, in every hierarchy.
func (r *Restored) checkCgroups(g *cgroup.Group) error {
	if g == nil {
		return nil
	}
	for _, h := range g.Hierarchies() {
		inside := map[string]bool{}
		err := filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
				return err
			}
			data, err := os.ReadFile(path)
			for _, pid := range strings.Fields(string(data)) {
				inside[pid] = true
			}
			if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup lists its processes above
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, pid := range r.pids {
			n := strconv.Itoa(pid)
			if st, err := readStatus("/proc/" + n); err != nil || strings.HasPrefix(st["State"], "Z") {
				continue
			}
			if !inside[n] {
				return refused("process %d is not in the container's cgroup %s", pid, h.Dir)
			}
		}
	}
	return nil
}
