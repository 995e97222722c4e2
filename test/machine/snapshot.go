package machine

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Snapshot is what a test must leave as it found it. Each set holds one line a thing.
type Snapshot map[string][]string

// Take looks at the machine.
func Take() (Snapshot, error) {
	s := Snapshot{}
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range all { // layers of images stay mounted as long as their image
		kind := "mount"
		if strings.Contains(m, " - erofs ") && strings.Contains(m, "/layer/") {
			kind = "layer"
		}
		s[kind] = append(s[kind], m)
	}
	if s["process"], err = processes(); err != nil {
		return nil, err
	}
	if s["control group"], err = cgroups(); err != nil {
		return nil, err
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		s["link"] = append(s["link"], l.Name)
	}
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return nil, fmt.Errorf("nft list tables (package nftables): %w", err)
	}
	s["nftables table"] = strings.Split(strings.TrimSpace(string(out)), "\n")
	return s, nil
}

// Kinds are the sets of a Snapshot.
func Kinds() []string {
	return []string{"mount", "layer", "process", "control group", "link", "nftables table"}
}

// Left lists what is in now and was not in s, a line a thing; of the given kinds, or of all.
func (s Snapshot) Left(now Snapshot, kinds ...string) []string {
	if len(kinds) == 0 {
		kinds = Kinds()
	}
	var left []string
	for _, kind := range kinds {
		for _, thing := range now[kind] {
			if thing != "" && !slices.Contains(s[kind], thing) {
				left = append(left, kind+": "+thing)
			}
		}
	}
	return left
}

// Settle waits until nothing is left over, at most for the given time, and returns what is left then.
// The kernel takes some things away in the background: a network interface some 20 ms after its namespace's last handle.
func (s Snapshot) Settle(limit time.Duration, kinds ...string) ([]string, error) {
	deadline := time.Now().Add(limit)
	for {
		now, err := Take()
		if err != nil {
			return nil, err
		}
		left := s.Left(now, kinds...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func mounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// Without the first field: the mount's number may be taken again.
		if _, rest, ok := strings.Cut(sc.Text(), " "); ok {
			out = append(out, rest)
		}
	}
	return out, nil
}

// processes lists Brig's processes and all that stand in another PID namespace than the caller.
func processes() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	mine, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, dir := range dirs {
		ns, err := os.Readlink(dir + "/ns/pid")
		if err != nil {
			continue // it ended meanwhile, or is a zombie
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		name, _, _ := strings.Cut(string(cmdline), "\x00") // not exe: a shim's is a detached mount, without a name
		if ns == mine && !strings.HasPrefix(filepath.Base(name), "brig") {
			continue
		}
		words, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")), " --resume ") // a shim that renewed itself is the same one
		out = append(out, filepath.Base(dir)+" "+words)
	}
	return out, nil
}

// cgroups lists the groups that Brig may have made: those that have "brig" in their path. No namespace hides those of containers that
// somebody else runs on the machine at the same time; they are left out.
func cgroups() ([]string, error) {
	const root = "/sys/fs/cgroup"
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if d.IsDir() && strings.Contains(path[len(root):], "brig") && !foreign(root, path[len(root)+1:]) {
			out = append(out, path)
		}
		return nil
	})
	return out, err
}

// foreign reports whether a group holds processes, it or those below it, none of which is in this PID namespace or below it. group is its path below
// root: with version 1 that of a hierarchy, and that in it.
func foreign(root, group string) bool {
	_, name, _ := strings.Cut(group, "/")
	for _, dir := range []string{filepath.Join(root, "pids", name), filepath.Join(root, group)} {
		count, err := os.ReadFile(filepath.Join(dir, "pids.current"))
		if err != nil || strings.TrimSpace(string(count)) == "0" {
			continue
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		// A process of another PID namespace is not listed (version 1), or as 0 (version 2): cgroups(7).
		if !slices.ContainsFunc(strings.Fields(string(procs)), func(pid string) bool { return pid != "0" }) {
			return true
		}
	}
	return false
}
