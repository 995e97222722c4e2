package conform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// ended is how a confined program ended.
type ended struct {
	code           int // 128 + signal where one ended it
	stdout, stderr string
	hung           bool
	left           []string // a line a thing: mount, container, process, control group
	took           time.Duration
}

// confine runs a program in a mount namespace of its own and takes away what it leaves, which is reported. The program is ended after the
// limit. What containers the runtime knows then is asked of the runtime.
func confine(runtime string, cmd *exec.Cmd, limit time.Duration) (e ended, err error) {
	err = machine.OnThread(func() error {
		if err := machine.OwnMounts(); err != nil {
			return err
		}
		e, err = sweepAfter(runtime, cmd, limit)
		return err
	})
	return e, err
}

func sweepAfter(runtime string, cmd *exec.Cmd, limit time.Duration) (e ended, err error) {
	mounts, err := ownMounts()
	if err != nil {
		return e, err
	}
	processes, groups := processes(), controlGroups()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return e, err
	}
	late := time.AfterFunc(limit, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	cmd.Wait()
	e.hung = !late.Stop()
	e.took = time.Since(begin)
	e.stdout, e.stderr, e.code = out.String(), errs.String(), exitCode(cmd.ProcessState)

	containers, err := forget(runtime)
	if err != nil {
		e.left = append(e.left, "runtime: "+err.Error())
	}
	for _, c := range containers {
		e.left = append(e.left, "container: "+c)
	}
	e.left = append(e.left, endProcesses(processes)...)
	e.left = append(e.left, removeGroups(groups)...)
	now, err := ownMounts()
	if err != nil {
		return e, err
	}
	for _, m := range now {
		if !slices.Contains(mounts, m) {
			e.left = append(e.left, "mount: "+m)
		}
	}
	return e, nil
}

func exitCode(s *os.ProcessState) int {
	if w := s.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// ownMounts lists the mount points of this thread's mount namespace.
func ownMounts() ([]string, error) {
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			out = append(out, f[4])
		}
	}
	return out, nil
}

// forget deletes all containers that the runtime has in its default root, and returns their names.
func forget(runtime string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, runtime, "list", "-q").Output()
	if err != nil {
		return nil, fmt.Errorf("%s list -q: %w", filepath.Base(runtime), err)
	}
	names := strings.Fields(string(out))
	for _, name := range names {
		if text, derr := exec.CommandContext(ctx, runtime, "delete", "--force", name).CombinedOutput(); derr != nil {
			err = fmt.Errorf("%s delete --force %s: %w: %s", filepath.Base(runtime), name, derr, bytes.TrimSpace(text))
		}
	}
	return names, err
}

// processes lists the processes of this PID namespace with what they run; zombies are nobody.
func processes() map[int]string {
	out := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		line, err := os.ReadFile(dir + "/cmdline")
		if err == nil && len(line) > 0 {
			out[pid] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// endProcesses kills the processes that are not among before, and returns them. Those that end by themselves in half a second are fine.
func endProcesses(before map[int]string) []string {
	var left []string
	for round := range 50 {
		more := map[int]string{}
		for pid, line := range processes() {
			if before[pid] == "" {
				more[pid] = "process: " + line
			}
		}
		if len(more) == 0 {
			break
		}
		if round == 10 {
			left = slices.Sorted(maps.Values(more))
		}
		if round >= 10 {
			for pid := range more {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return left
}

// controlGroups lists the control groups that a suite may have made: no namespace keeps those of others out of sight, so that they are
// told by their names. Containers here are named by a UUID or have the fixed paths of runtime-tools' cgroups package.
func controlGroups() []string {
	const root = "/sys/fs/cgroup"
	ours := regexp.MustCompile(`/(cgrouptest|testdir|conform-[^/]*|[^/]*[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}[^/]*)(/|$)`)
	var out []string
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && ours.MatchString(path[len(root):]) {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// removeGroups removes the control groups that are not among before, and returns them. The kernel may need a moment to let go of a group
// whose last process has just ended.
func removeGroups(before []string) []string {
	var left []string
	for _, g := range slices.Backward(controlGroups()) {
		if slices.Contains(before, g) {
			continue
		}
		left = append(left, "control group: "+g)
		for range 40 {
			if err := unix.Rmdir(g); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(25 * time.Millisecond)
		}
	}
	return left
}

// TestConfine: a program that leaves one thing of each kind is caught with all of them.
func TestConfine(t *testing.T) {
	gated(t)
	dir := t.TempDir()
	fake := filepath.Join(dir, "runtime")
	script := "#!/bin/sh\ncase $1 in list) cat " + dir + "/names 2>/dev/null;; delete) : >" + dir + "/names;; esac; exit 0\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	group := "/sys/fs/cgroup/pids/conform-" + strconv.Itoa(os.Getpid())
	cmd := exec.Command("sh", "-c", "mount -t tmpfs conform "+dir+"/m; mkdir "+group+"; setsid sleep 1000 & echo box >"+dir+"/names; echo out; echo err >&2; exit 3")
	if err := os.Mkdir(dir+"/m", 0o755); err != nil {
		t.Fatal(err)
	}
	e, err := confine(fake, cmd, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if e.code != 3 || e.stdout != "out\n" || e.stderr != "err\n" || e.hung {
		t.Errorf("ended with %+v", e)
	}
	want := []string{"container: box", "process: sleep 1000", "control group: " + group, "mount: " + dir + "/m"}
	if !slices.Equal(e.left, want) {
		t.Errorf("left behind %q, want %q", e.left, want)
	}
	if names, err := os.ReadFile(dir + "/names"); err != nil || len(names) > 0 {
		t.Errorf("the container was not deleted: %q, %v", names, err)
	}
	if _, err := os.Stat(group); err == nil {
		t.Errorf("%s is still there", group)
	}
	e, err = confine(fake, exec.Command("sleep", "1000"), 100*time.Millisecond)
	if err != nil || !e.hung || e.code != 137 || len(e.left) != 0 {
		t.Errorf("a program that hangs: %+v, %v", e, err)
	}
}
