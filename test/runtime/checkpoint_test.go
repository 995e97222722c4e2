package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/test/guest"
)

// counter is a bundle whose process counts in a file of its tmpfs, and shows the count in a folder of the host's that is bound at /brig-here. In
// memory it has a word that no file has.
func (w *world) counter(edit func(*specs.Spec)) (bundle, shared string) {
	w.t.Helper()
	shared, err := os.MkdirTemp(w.dir, "shared")
	if err != nil {
		w.t.Fatal(err)
	}
	bundle = w.bundle(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			specs.Mount{Type: "bind", Source: shared, Destination: "/brig-here", Options: []string{"rbind", "rw"}})
		pids := int64(50)
		s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}
		s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/acpi", "/proc/scsi", "/proc/keys", "/sys/firmware"}
		s.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/bus"}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mknod", "mknodat"}, Action: specs.ActErrno},
		}}
		if edit != nil {
			edit(s)
		}
	}, "sh", "-c", `word=$RANDOM$RANDOM; i=0; while :; do i=$((i+1)); echo $i >/tmp/count; echo $i $word >/brig-here/count.new; mv /brig-here/count.new /brig-here/count; sleep 0.05; done`)
	return bundle, shared
}

// count reads the count and the word.
func count(shared string) (n int, word string) {
	data, _ := os.ReadFile(shared + "/count")
	first, word, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	n, _ = strconv.Atoi(first)
	return n, word
}

// above waits until the count is above n.
func (w *world) above(shared string, n int) (int, string) {
	w.t.Helper()
	err := eventually(func() error {
		if now, _ := count(shared); now <= n {
			return fmt.Errorf("the count is %d, and should get above %d", now, n)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return count(shared)
}

// restored restores a container detached, and has it deleted at the test's end.
func (w *world) restored(bundle, images string, flags ...string) (id string) {
	w.t.Helper()
	id = w.name()
	w.t.Cleanup(func() { w.run("delete", "--force", id) })
	r := w.run(append(append([]string{"restore", "-d", "--bundle", bundle, "--image-path", images}, flags...), id)...)
	if r.code != 0 {
		log, _ := os.ReadFile(images + "/restore.log")
		w.t.Fatalf("restore: %s\n%s", r, tail(string(log)))
	}
	return id
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

func (w *world) checkpoint(images string, args ...string) {
	w.t.Helper()
	r := w.run(append([]string{"checkpoint", "--image-path", images}, args...)...)
	if r.code != 0 {
		log, _ := os.ReadFile(images + "/dump.log")
		w.t.Fatalf("checkpoint: %s\n%s", r, tail(string(log)))
	}
}

// TestCheckpoint: a process goes on where it was, with its memory, in a container that all verbs know.
func TestCheckpoint(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	w := newWorld(t)
	bundle, shared := w.counter(nil)
	id := w.started(bundle)
	_, word := w.above(shared, 3)
	images := w.dir + "/images"

	w.checkpoint(images, "--leave-running", id)
	at, _ := count(shared)
	w.above(shared, at+2)
	if s := w.state(id).Status; s != "running" {
		t.Fatalf("after --leave-running it is %s", s)
	}

	w.must("checkpoint", "--image-path", w.dir+"/pre", "--pre-dump", id)
	w.above(shared, at+4)
	images = w.dir + "/final"
	w.checkpoint(images, "--parent-path", "../pre", id)
	if w.has(id) {
		t.Errorf("the container is there still: %s", w.must("state", id))
	}
	stopped, _ := count(shared)

	id = w.restored(bundle, images, "--pid-file", w.dir+"/pid")
	now, again := w.above(shared, stopped+2)
	if word == "" || again != word {
		t.Errorf("its memory had the word %q, and has %q", word, again)
	}
	s := w.state(id)
	if s.Status != "running" || w.read(w.dir+"/pid") != strconv.Itoa(s.Pid) {
		t.Errorf("state %+v, pid file %s", s, w.read(w.dir+"/pid"))
	}
	if n, err := strconv.Atoi(w.must("exec", id, "cat", "/tmp/count")); err != nil || n < now {
		t.Errorf("exec reads the count %d, %v, want at least %d", n, err, now)
	}
	if r := w.run("exec", id, "touch", "/proc/sys/kernel/domainname", "/nowhere"); r.code == 0 {
		t.Errorf("read-only places can be written to: %s", r)
	}
	if kcore := w.must("exec", id, "sh", "-c", "wc -c </proc/kcore; ls /sys/firmware"); kcore != "0" {
		t.Errorf("masked paths show %q", kcore)
	}
	if own := w.must("exec", id, "cat", "/proc/1/cgroup"); !strings.HasSuffix(own, "0::/") {
		t.Errorf("its cgroup is %q, as it sees it", own)
	}
	if limit := w.must("exec", id, "cat", "/sys/fs/cgroup/pids.max"); limit != "50" {
		t.Errorf("its limit of processes is %s", limit)
	}
	w.must("pause", id)
	w.must("resume", id)
	w.above(shared, now)
	w.must("kill", id, "KILL")
	w.becomes(id, "stopped")
	w.must("delete", id)
}

// TestCheckpointModes: a network namespace that is given by path is joined again, and limits are the bundle's in every mode, also where criu
// restores the archive's.
func TestCheckpointModes(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	w := newWorld(t)
	holder := exec.Command("sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	netns := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	link, err := os.Readlink(netns)
	if err != nil {
		t.Fatal(err)
	}
	bundle, shared := w.counter(func(s *specs.Spec) { s.Linux.Namespaces[1].Path = netns })
	id := w.started(bundle)
	w.above(shared, 1)
	images := w.dir + "/images"
	w.checkpoint(images, "--manage-cgroups-mode", "full", "--file-locks", "--tcp-established", "--ext-unix-sk", "--shell-job", id)
	limited, _ := w.counter(func(s *specs.Spec) {
		s.Linux.Namespaces[1].Path = netns
		*s.Linux.Resources.Pids.Limit = 40
		s.Mounts[len(s.Mounts)-1].Source = shared
	})
	for _, mode := range []string{"full", "soft"} {
		at, _ := count(shared)
		id = w.restored(limited, images, "--manage-cgroups-mode", mode, "--file-locks", "--tcp-established", "--ext-unix-sk", "--shell-job")
		w.above(shared, at)
		if limit := w.must("exec", id, "cat", "/sys/fs/cgroup/pids.max"); limit != "40" {
			t.Errorf("%s: its limit of processes is %s, the bundle's is 40", mode, limit)
		}
		pid := strconv.Itoa(w.state(id).Pid)
		if got, err := os.Readlink("/proc/" + pid + "/ns/net"); err != nil || got != link {
			t.Errorf("%s: it is in %s, %v, and should be in %s", mode, got, err, link)
		}
		w.must("delete", "--force", id)
	}
	id = w.name()
	at, _ := count(shared)
	w.fails(1, "cgroup", "restore", "-d", "--bundle", limited, "--image-path", images, "--manage-cgroups-mode", "ignore", "--file-locks", "--tcp-established", "--ext-unix-sk", "--shell-job", id)
	if now, _ := count(shared); now != at {
		t.Errorf("a container in the host's cgroup namespace has counted on, from %d to %d", at, now)
	}
}

// TestRestoreForeground: restore waits for the end, whose code is its own, and hands its streams in for the pipes of before.
func TestRestoreForeground(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	w := newWorld(t)
	bundle := w.bundle(nil, "sh", "-c", `echo before; read x; echo "after $x"; exit 7`)
	id, images := w.name(), w.dir+"/images"
	cmd := w.command("run", "--bundle", bundle, "--keep", id)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.run("delete", "--force", id) })
	text := make([]byte, 7)
	if _, err := out.Read(text); err != nil || string(text) != "before\n" {
		t.Fatalf("%q, %v", text, err)
	}
	w.checkpoint(images, id)
	in.Close()
	cmd.Wait()
	again := w.command("restore", "--bundle", bundle, "--image-path", images, id)
	again.Stdin = strings.NewReader("word\n")
	var said strings.Builder
	again.Stdout = &said
	r := w.finish(again)
	if r.code != 7 || said.String() != "after word\n" {
		log, _ := os.ReadFile(images + "/restore.log")
		t.Errorf("%s, said %q\n%s", r, said.String(), tail(string(log)))
	}
	if w.has(id) {
		t.Error("the container is there after its end")
	}
}

// TestRestoreHoldsTheBundle: what confines a container is the bundle's; an archive of one that was confined less is refused, and nothing is left of it.
func TestRestoreHoldsTheBundle(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	w := newWorld(t)
	filter := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	lax := func(s *specs.Spec) {
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYSLOG")
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
		s.Linux.Seccomp = nil
	}
	bundle, shared := w.counter(lax)
	id := w.started(bundle)
	w.above(shared, 1)
	images := w.dir + "/images"
	w.checkpoint(images, id)
	at, _ := count(shared)
	for _, c := range []struct {
		words string
		edit  func(*specs.Spec)
	}{
		{"CAP_SYSLOG", func(s *specs.Spec) {
			b := &s.Process.Capabilities.Bounding
			*b = (*b)[:len(*b)-1]
		}},
		{"host's network namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		}},
		{"no system call filter", func(s *specs.Spec) { s.Linux.Seccomp = filter }},
		{"not hidden", func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/meminfo") }},
		{"/proc/fs is not read-only", func(s *specs.Spec) { s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/proc/fs") }},
		{"the mount on /tmp is not nosuid", func(s *specs.Spec) { s.Mounts[3].Options = append(s.Mounts[3].Options, "nosuid") }},
		{"config.json does not name", func(s *specs.Spec) { s.Mounts = append(s.Mounts[:3:3], s.Mounts[4:]...) }},
	} {
		tampered, _ := w.counter(func(s *specs.Spec) {
			for i := range s.Mounts {
				if s.Mounts[i].Destination == "/brig-here" {
					s.Mounts[i].Source = shared
				}
			}
			lax(s)
			c.edit(s)
		})
		id := w.name()
		w.fails(1, c.words, "restore", "-d", "--bundle", tampered, "--image-path", images, id)
		if w.has(id) {
			t.Errorf("%s: the container is there", c.words)
		}
		w.clean()
		if now, _ := count(shared); now != at {
			t.Errorf("%s: a refused container has counted on, from %d to %d", c.words, at, now)
		}
	}
	w.restored(bundle, images)
	w.above(shared, at)
}

// TestCheckpointFails: without criu, or with one that cannot, the message says what is missing, and the container runs on.
func TestCheckpointFails(t *testing.T) {
	w := newWorld(t)
	bundle, shared := w.counter(nil)
	id := w.started(bundle)
	w.above(shared, 1)
	images := w.dir + "/images"
	ok := func(id string) {
		t.Helper()
		at, _ := count(shared)
		w.above(shared, at+1)
		if s := w.state(id).Status; s != "running" {
			t.Errorf("it is %s", s)
		}
	}
	fake := w.dir + "/criu"
	script := "#!/bin/sh\necho '(00.01) Error (criu/vdso.c:1): vdso: no symbol' >" + images + "/dump.log\nexit 1\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w.fails(1, "install the package criu", "--criu", "/nonexistent/criu", "checkpoint", "--image-path", images, id)
	ok(id)
	w.fails(1, "Error (criu/vdso.c:1): vdso: no symbol: "+images+"/dump.log has more", "--criu", fake, "checkpoint", "--image-path", images, id)
	ok(id)
	w.fails(1, "is not a checkpoint", "checkpoint", "--image-path", images, "--empty-ns", "is not a checkpoint", id)
	w.fails(1, "must be relative", "checkpoint", "--image-path", images, "--parent-path", "/x", id)
	w.fails(1, "ADDRESS:PORT", "checkpoint", "--image-path", images, "--page-server", "x", id)
	w.fails(1, "is not open", "checkpoint", "--image-path", images, "--status-fd", "99", id)
	w.fails(1, "--no-pivot", "restore", "--no-pivot", "-b", bundle, "--image-path", images, w.name())
	w.fails(1, "install the package criu", "--criu", "/nonexistent/criu", "restore", "-b", bundle, "--image-path", images, w.name())
	ok(id)
	if w.run("restore", "-b", bundle, "--image-path", w.dir+"/none", w.name()).code == 0 {
		t.Error("a checkpoint that is not there was restored")
	}
	if _, err := os.Stat(w.dir + "/none"); err == nil {
		t.Error("restore has made the folder of a checkpoint")
	}
	w.must("pause", id)
	w.fails(1, "it is paused", "checkpoint", "--image-path", images, id)
	w.must("resume", id)
	w.must("delete", "--force", id)

	other := w.created(w.bundle(nil, "sleep", "60"))
	w.fails(1, "it is created", "checkpoint", "--image-path", images, other)
}
