package escape

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// Descriptors of the engine leaked into the container: runc's was a way to the machine's cgroup folder, and by that to its root.
func TestCVE_2024_21626(t *testing.T) {
	id := victim(t, "brig/base", "sleep", "1000")
	list := `i=0; while [ $i -lt 256 ]; do [ -L /proc/$$/fd/$i ] && echo -n "$i "; i=$((i+1)); done; true`
	if got := must(t, "run", "--rm", "brig/base", "sh", "-c", list); got != "0 1 2" {
		t.Errorf("run: open descriptors %q, want 0 1 2", got)
	}
	if got := must(t, "exec", id, "sh", "-c", list); got != "0 1 2" {
		t.Errorf("exec: open descriptors %q, want 0 1 2", got)
	}
	// Harmless is a folder of the container: what its path names, or one of its own layer (that a mount may cover), with its root above,
	// and the kernel's files in it no more open than through the path.
	where := fmt.Sprintf(`id() { stat -c %%d:%%i "$1"; }
		shut() { [ ! -e $1 ] || ! (: >>$1) 2>/dev/null; }
		{ [ $(id .) = $(id "$(pwd -P)") ] || [ $(stat -c %%d .) = $(stat -c %%d /) ]; } && [ $(id ../../../../..) = $(id /) ] &&
		[ ! -e ../../../../..%s ] && shut sys/kernel/core_pattern && shut sysrq-trigger && shut kernel/core_pattern &&
		echo inside || echo outside; pwd -P >&2`, root)
	for n := 3; n <= 20; n++ {
		dir := fmt.Sprintf("/proc/self/fd/%d", n)
		for _, args := range [][]string{
			{"run", "--rm", "-w", dir, "brig/base", "sh", "-c", where},
			{"exec", "-w", dir, id, "sh", "-c", where},
		} {
			if r := brig(t, args...); r.out != "" && strings.TrimSpace(r.out) != "inside" {
				t.Errorf("brig %s: %s", strings.Join(args[:4], " "), r)
			} else if r.out != "" {
				t.Logf("%s -w %s is followed, to a folder of the container: %s", args[0], dir, r.err)
			}
		}
	}
}

// The runtime's own program overwritten through /proc/PID/exe.
func TestCVE_2019_5736(t *testing.T) {
	hash := func() (sums string) {
		for _, p := range []string{"brig", "brig-oci"} {
			data, err := os.ReadFile(program(p))
			if err != nil {
				t.Fatal(err)
			}
			sums += fmt.Sprintf("%x ", sha256.Sum256(data))
		}
		return sums
	}
	before := hash()
	for _, args := range [][]string{{"/proc/self/exe"}, {"/proc/self/exe", "--help"}} {
		brig(t, append([]string{"run", "--rm", "--cap-add", "SYS_PTRACE", "brig/base"}, args...)...)
	}
	id := victim(t, "--cap-add", "SYS_PTRACE", "-v", probe+":/probe:ro", "brig/base", "/probe", "exe")
	var log string
	for end := time.Now().Add(3500 * time.Millisecond); time.Now().Before(end); {
		brig(t, "exec", id, "true")
		brig(t, "exec", id, "/proc/self/exe")
	}
	time.Sleep(time.Second)
	log = must(t, "logs", id)
	t.Logf("the attacker saw:\n%s", log)
	if !strings.Contains(log, "ready") || strings.Contains(log, "HOLE") || strings.Contains(log, "writable mount") {
		t.Errorf("a program of the engine was opened for writing (or the attacker did not run):\n%s", log)
	}
	if hash() != before {
		t.Error("bin/brig or bin/brig-oci has changed")
	}
}

// Masked paths that can be read, read-only ones that can be written (the static part of both).
func TestCVE_2025_31133_52565(t *testing.T) {
	id := victim(t, "brig/base", "sleep", "1000")
	masked := `for p in /proc/kcore /proc/keys /proc/timer_list /proc/latency_stats /proc/sched_debug /proc/acpi /proc/asound /proc/scsi \
		/proc/interrupts /sys/firmware /sys/devices/virtual/powercap; do
		if [ -d $p ]; then n=$(ls -A $p | wc -c); elif [ -e $p ]; then n=$(head -c 1 $p 2>/dev/null | wc -c); else n=0; fi
		[ $n = 0 ] || echo "$p readable"; done
	for p in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hostname /proc/sys/vm/panic_on_oom \
		/proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled; do
		[ -e $p ] && (: >>$p) 2>/dev/null && echo "$p writable"; done
	(: >>/dev/null) && echo control`
	for _, args := range [][]string{{"run", "--rm", "brig/base"}, {"run", "--rm", "-t", "brig/base"}, {"exec", id}} {
		if got := must(t, append(args, "sh", "-c", masked)...); got != "control" {
			t.Errorf("brig %s: %q", args[0], got)
		}
	}
}

// Inheritable capabilities that are not empty, which file capabilities turn into permitted ones.
func TestCVE_2022_29162(t *testing.T) {
	id := victim(t, "brig/base", "sleep", "1000")
	const none = "CapInh:\t0000000000000000"
	for _, args := range [][]string{
		{"run", "--rm", "brig/base"}, {"run", "--rm", "--cap-add", "SYS_ADMIN", "-u", "1000", "brig/base"},
		{"exec", id}, {"exec", "-u", "1000", id}, {"exec", "--privileged", id},
	} {
		if got := must(t, append(args, "grep", "CapInh", "/proc/self/status")...); got != none {
			t.Errorf("brig %s: %q", strings.Join(args, " "), got)
		}
	}
}

// release_agent of a version 1 control group runs a program on the machine.
func TestCVE_2022_0492(t *testing.T) {
	look := `for p in $(find / -xdev -name release_agent 2>/dev/null) $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release); do
		(: >>$p) 2>/dev/null && echo "$p writable"; done
	mkdir /tmp/c && mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo mounted
	unshare -rC true 2>/dev/null && echo unshared; echo control`
	if got := must(t, "run", "--rm", "brig/base", "sh", "-c", look); got != "control" {
		t.Errorf("%q", got)
	}
}

// An abstract socket of the engine's, which a container in the machine's network namespace can connect to.
func TestCVE_2020_15257(t *testing.T) {
	id := victim(t, "--network", "host", "brig/base", "sleep", "1000")
	inside := must(t, "exec", id, "cat", "/proc/net/unix")
	machine, err := os.ReadFile("/proc/net/unix")
	if err != nil || !strings.Contains(string(machine), "Inode") {
		t.Fatalf("%q, %v", machine, err)
	}
	if strings.Contains(inside, "@") || strings.Contains(string(machine), "@") {
		t.Errorf("abstract sockets:\n%s\n%s", inside, machine)
	}
	out, err := exec.Command("find", root, state, "-type", "s", "-printf", "%m %h\n").Output()
	if err != nil || !strings.Contains(string(out), state) {
		t.Fatalf("no socket found: %q, %v", out, err)
	}
	for line := range strings.Lines(string(out)) {
		mode, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		info, err := os.Stat(dir)
		if err != nil || mode != "600" || info.Mode().Perm() != 0o700 {
			t.Errorf("socket of mode %s in %s: %v, %v", mode, dir, info, err)
		}
	}
}

// Copy Fail (2026-31431) and the other ways into the machine's kernel that the default filter closes.
func TestCVE_2026_31431(t *testing.T) {
	id := victim(t, "-v", probe+":/probe:ro", "brig/base", "sleep", "1000")
	for _, args := range [][]string{{"run", "--rm", "-v", probe + ":/probe:ro", "brig/base"}, {"exec", id}} {
		got := must(t, append(args, "/probe", "syscalls")...)
		for line := range strings.Lines(got + "\n") {
			name, errno, _ := strings.Cut(strings.TrimSpace(line), " ")
			if blocked := errno == "EPERM" || errno == "ENOSYS" || name == "AF_ALG" && errno == "EAFNOSUPPORT"; blocked == (name == "control") {
				t.Errorf("%s: %s answers %q", args[0], name, errno)
			}
		}
		if strings.Count(got, "\n") != 7 {
			t.Errorf("%s: %q", args[0], got)
		}
	}
	if slices.Contains([]string{"container,userns", "gvisor", "vm"}, os.Getenv(isolationEnv)) {
		return // --privileged is refused there
	}
	open := must(t, "run", "--rm", "--privileged", "-v", probe+":/probe:ro", "brig/base", "/probe", "syscalls")
	if strings.Contains(open, "unshare EPERM") || strings.Contains(open, "keyctl EPERM") {
		t.Errorf("a privileged container is refused too, so the above proves nothing: %q", open)
	}
}
