package escape

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// knobs says which of the machine's switches can be opened for writing, and which of its secrets read. It writes nothing.
const knobs = `
	for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/panic /proc/sys/kernel/randomize_va_space \
		/proc/sys/vm/drop_caches /proc/sys/vm/overcommit_memory /proc/sys/fs/file-max /proc/sys/fs/protected_symlinks /proc/irq/default_smp_affinity /sys/kernel/uevent_helper \
		/sys/power/state /sys/kernel/mm/transparent_hugepage/enabled; do
		[ -e $f ] && (: >>$f) 2>/dev/null && echo "open $f"
	done
	for f in /proc/kcore /proc/timer_list; do (: <$f) 2>/dev/null && echo "read $f"; done
`

// beyond tries what a container's root with all rights in its own user namespace could do beyond it, with the mounts and programs at hand.
const beyond = knobs + `
	mount -o remount,rw /sys 2>/dev/null; (: >>/sys/kernel/uevent_helper) 2>/dev/null && echo "open uevent_helper after remount"
	(: >/host/made) 2>/dev/null && echo "made a file on the host"
	cat /host/secret 2>/dev/null
	mount -o remount,bind,rw /host 2>/dev/null; (: >/host/made) 2>/dev/null && echo "made a file on the host after remount"
	chown 0:0 /host 2>/dev/null && echo "owner changed"
	mkdir -p /m/1 /m/2 /m/p /m/s
	mknod /m/disk b 254 0 2>/dev/null && echo "a block device"
	mknod /m/mem c 1 1 2>/dev/null && (: <>/m/mem) 2>/dev/null && echo "memory"
	mount -t devtmpfs d /m/s 2>/dev/null && echo "the machine's devices"
	mount -t cgroup -o memory c /m/1 2>/dev/null && for f in /m/1/memory.limit_in_bytes /m/1/release_agent /m/1/cgroup.procs /m/1/notify_on_release; do (: >>$f) 2>/dev/null && echo "open $f"; done
	mount -t cgroup2 c /m/2 2>/dev/null && ls /m/2 | grep brig-
	for f in /sys/fs/cgroup /m/2; do for k in memory.max pids.max cgroup.max.descendants; do [ -e $f/$k ] && (: >>$f/$k) 2>/dev/null && echo "open $f/$k"; done; done
	mount -t proc p /m/p 2>/dev/null && ls /m/p | grep -c '^[0-9]' | awk '$1 > 20 { print "processes of others" }'
	nsenter -t 1 -m -p true 2>/dev/null && [ "$(readlink /proc/1/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ] && echo "another's mounts"
	date -s '2001-01-01 00:00' 2>&1 | grep -q "can't set date" || echo "the clock"
	insmod /bin/busybox 2>&1 | grep -q 'not permitted' || echo "modules: $(insmod /bin/busybox 2>&1)"
	hostname beyond; dmesg >/dev/null 2>&1 && echo "the kernel's log"
	echo tried`

// A container that may run containers is root of nothing but itself: not of the host's files, its devices, its kernel's switches, its clock, nor of control groups above or beside its own.
func TestNestingIsRootOfNothingElse(t *testing.T) {
	host := t.TempDir()
	for path, mode := range map[string]os.FileMode{host: 0o755, filepath.Dir(host): 0o755, filepath.Join(host, "secret"): 0o600} {
		if path != host && path != filepath.Dir(host) {
			if err := os.WriteFile(path, []byte("the host's secret\n"), mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	name, _ := os.Hostname()
	got := must(t, "run", "--rm", "--network", "none", "--userns", "auto", "--security-opt", "nesting", "-m", "64m", "-v", host+":/host:ro", "brig/base", "sh", "-c", beyond)
	if got != "tried" {
		t.Errorf("beyond its namespaces: %s", got)
	}
	if now, _ := os.Hostname(); now != name {
		t.Errorf("the machine is called %s", now)
	}
	// The attempts are real: root of the machine would succeed.
	if got := must(t, "run", "--rm", "--network", "none", "--privileged", "brig/base", "sh", "-c", knobs); strings.Count(got, "open ") < 5 {
		t.Errorf("with all rights no more than this can be opened: %s", got)
	}
}

// What is bound read-only stays so for a container's root that may change its mounts, whatever it copies, moves or uncovers.
func TestReadOnlyIsLocked(t *testing.T) {
	host := t.TempDir()
	file := filepath.Join(host, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(host): 0o755, host: 0o777, file: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "volume", "create", "closed")
	defer must(t, "volume", "rm", "closed")
	const undo = `
		mkdir -p /copy
		touch /copied
		for m in /host /file /volume; do
			c=/copy; [ -d $m ] || c=/copied
			mount --bind $m $c || echo "no copy of $m"
			for at in $m $c; do
				mount -o remount,bind,rw $at 2>/dev/null
				if [ -d $at ]; then (: >$at/made) 2>/dev/null && { echo "made $at/made"; rm $at/made; }; else (: >>$at) 2>/dev/null && echo "opened $at"; fi
			done
			umount $c
		done
		echo tried`
	for _, with := range [][]string{{"--security-opt", "nesting"}, {"--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"}} {
		args := append([]string{"run", "--rm", "--network", "none", "--userns", "auto"}, with...)
		tail := []string{"-v", "closed:/volume:MODE", "-v", host + ":/host:MODE", "-v", file + ":/file:MODE", "brig/base", "sh", "-c", undo}
		in := func(mode string) string {
			list := args
			for _, a := range tail {
				list = append(list, strings.Replace(a, ":MODE", mode, 1))
			}
			return must(t, list...)
		}
		if got := in(":ro"); got != "tried" {
			t.Errorf("%v: %s", with, got)
		}
		if got := in(""); strings.Count(got, "made /") != 4 || strings.Count(got, "opened") != 2 {
			t.Errorf("%v: the attempts do nothing where all is writable: %s", with, got)
		}
	}
}

// A normal user's container that may run containers has no more of the machine than the user.
func TestRootlessNestingIsTheUser(t *testing.T) {
	brig, _ := asUser(t)
	r := brig("run", "--rm", "--network", "none", "--security-opt", "nesting", "brig/base", "sh", "-c", knobs+`
		mkdir -p /m/1; mknod /m/disk b 254 0 2>/dev/null && echo "a block device"
		mount -t cgroup -o memory c /m/1 2>/dev/null && echo "version 1"
		mount -t devtmpfs d /m/1 2>/dev/null && echo "the machine's devices"
		date -s '2001-01-01 00:00' 2>&1 | grep -q "can't set date" || echo "the clock"; echo tried`)
	if r.code != 0 || strings.TrimSpace(r.out) != "tried" {
		t.Error(r)
	}
}
