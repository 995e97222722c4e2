package debian

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/test/guest"
	"brig/test/machine"
)

// bootLimit is how long systemd may take to be up, and exec to answer: in a guest that is translated all is slow.
const bootLimit = 6 * time.Minute

// own makes an engine with a store of its own, with which the machine is left as it was.
func own(t *testing.T) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := filepath.Abs("../../bin/brig")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%v: make build", err)
	}
	state, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, bin: bin, env: append(os.Environ(), "BRIG_ROOT="+filepath.Join(t.TempDir(), "root"), "BRIG_STATE="+state)}
	t.Cleanup(func() {
		e.run("system", "reset", "--force")
		os.RemoveAll(state)
	})
	return e
}

// try is run for what may fail.
func (e *engine) try(args ...string) string {
	cmd := exec.Command(e.bin, args...)
	cmd.Env = e.env
	out, _ := cmd.CombinedOutput()
	return strings.TrimSpace(string(out))
}

// until runs brig until its output has want.
func (e *engine) until(want string, args ...string) {
	e.t.Helper()
	out, pause := "", 200*time.Millisecond
	if guest.Inside() {
		pause = 10 * time.Second // to ask is work for a machine that is translated, too
	}
	for deadline := time.Now().Add(bootLimit); time.Now().Before(deadline); time.Sleep(pause) {
		if out = e.try(args...); strings.Contains(out, want) {
			return
		} else if out == "degraded" {
			break
		}
	}
	e.t.Fatalf("brig %s: it still says %.500q, not %q\n%s", strings.Join(args, " "), out, want, e.try("exec", args[1], "sh", "-c", "systemctl list-jobs --no-pager; systemctl --failed --no-pager --plain; journalctl -p warning --no-pager | tail -n 20"))
}

// TestSystemd boots a Debian whose first process is systemd, with nginx as one of its services.
func TestSystemd(t *testing.T) {
	if os.Getenv(gate) == "" {
		t.Skip("makes a whole Debian from a package mirror, which takes minutes: make test-debian")
	}
	file, err := machine.DebianTarball("../../.cache", "systemd", "systemd-sysv", "dbus", "nginx-light", "procps")
	if err != nil {
		t.Fatal(err)
	}
	e := own(t)
	e.run("import", "-q", file, "debian-systemd")
	for _, c := range []struct {
		name string
		args []string
	}{
		{"plain", nil}, {"terminal", []string{"-t"}}, {"userns", []string{"--userns", "auto"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.t = t
			name := "boots-" + c.name
			e.boots(name, append(append([]string{"-d", "--name", name, "-m", "512m", "--pids-limit", "200"}, c.args...), "debian-systemd", "/sbin/init")...)
			address := e.run("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name)
			body, err := get("http://" + address + "/")
			if err != nil || !strings.Contains(body, "Welcome to nginx") {
				t.Errorf("nginx served %.200s, %v", body, err)
			}
			if out := e.run("exec", name, "systemctl", "status", "--no-pager", "nginx"); !strings.Contains(out, "Active: active (running)") || !strings.Contains(out, "/system.slice/nginx.service") {
				t.Errorf("systemctl status nginx: %s", out)
			}
			if c.name == "terminal" {
				e.until("multi-user.target", "logs", name)
			}
			e.stops(name)
		})
	}
	e.t = t
}

// TestSystemdUnified does that where control groups are version 2's alone, with the files of that machine.
func TestSystemdUnified(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	e := own(t)
	image := filepath.Join(t.TempDir(), "root.tar")
	if err := guestRoot(image); err != nil {
		t.Fatal(err)
	}
	e.run("import", "-q", image, "guest")
	e.boots("unified", "-d", "--name", "unified", "--network", "none", "-m", "200m", "--pids-limit", "200", "-v", "/usr:/usr:ro", "guest", "/lib/systemd/systemd")
	id := e.run("inspect", "--format", "{{.ID}}", "unified")
	group := "/sys/fs/cgroup/brig-" + id
	// The service manager hands controllers down and limits services, below what the container itself may have.
	e.run("exec", "unified", "systemd-run", "--unit", "limited", "-p", "MemoryMax=20M", "-p", "TasksMax=5", "sleep", "1000")
	if out := e.run("exec", "unified", "cat", "/sys/fs/cgroup/system.slice/limited.service/memory.max"); out != "20971520" {
		t.Errorf("memory.max of a service with MemoryMax=20M: %s", out)
	}
	e.run("exec", "unified", "sh", "-c", "echo max >/sys/fs/cgroup/memory.max; echo max >/sys/fs/cgroup/pids.max; for f in memory.max pids.max; do [ $(cat /sys/fs/cgroup/$f) = max ] || exit 1; done")
	for file, want := range map[string]string{"memory.max": "209715200", "pids.max": "200"} {
		have, err := os.ReadFile(group + "/" + file)
		if err != nil || strings.TrimSpace(string(have)) != want {
			t.Errorf("%s of the container: %s, %v; want %s", file, have, err, want)
		}
	}
	if out := e.try("exec", "unified", "sh", "-c", "for i in $(seq 300); do sleep 3 & done"); !strings.Contains(out, "fork") {
		t.Errorf("300 processes under a limit of 200: %.300s", out)
	}
	time.Sleep(4 * time.Second)
	if out := e.run("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "unified"); !strings.Contains(out, "/ 200MiB") || strings.HasSuffix(out, " 0") {
		t.Errorf("stats: %s", out)
	}
	e.stops("unified")
}

// TestSystemdUnifiedMapped is that in a user namespace of the container's own.
func TestSystemdUnifiedMapped(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	e := own(t)
	image := filepath.Join(t.TempDir(), "root.tar")
	if err := guestRoot(image); err != nil {
		t.Fatal(err)
	}
	e.run("import", "-q", image, "guest")
	e.boots("mapped", "-d", "--name", "mapped", "--network", "none", "--userns", "auto", "-v", "/usr:/usr:ro", "guest", "/lib/systemd/systemd")
	e.run("exec", "mapped", "systemd-run", "-p", "MemoryMax=20M", "sleep", "1000")
	e.stops("mapped")
}

// guestRoot writes an image of the machine's root without /usr, which its containers bind.
func guestRoot(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, dir := range []string{"usr", "etc", "etc/systemd", "etc/systemd/system", "var", "var/log", "var/lib", "var/tmp", "run", "tmp", "root", "proc", "sys", "dev"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	links := map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
	for _, unit := range []string{"nftables.service", "systemd-firstboot.service"} { // they want files of /etc, and a terminal to ask on
		links["etc/systemd/system/"+unit] = "/dev/null"
	}
	for name, to := range links {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}); err != nil {
			return err
		}
	}
	for _, name := range []string{"passwd", "group", "shadow", "nsswitch.conf", "ld.so.cache", "pam.d"} {
		from := filepath.Join("/etc", name)
		err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err == nil {
				err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o644, Size: int64(len(data))})
			}
			if err == nil {
				_, err = w.Write(data)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

// boots runs a container and waits until its systemd has started all that it is to start.
func (e *engine) boots(name string, args ...string) {
	e.t.Helper()
	begun := time.Now()
	e.run(append([]string{"run"}, args...)...)
	e.until("running", "exec", name, "systemctl", "is-system-running")
	e.t.Logf("%s is up after %.1f s", name, time.Since(begun).Seconds())
	if out := e.run("exec", name, "cat", "/proc/1/cgroup"); !strings.HasSuffix(out, "0::/init.scope") {
		e.t.Errorf("systemd is in %s", out)
	}
}

// stops ends it: in an orderly way, with 0.
func (e *engine) stops(name string) {
	e.t.Helper()
	begun := time.Now()
	e.run("stop", "-t", "100", name)
	e.t.Logf("%s is down after %.1f s", name, time.Since(begun).Seconds())
	if code := e.run("inspect", "--format", "{{.State.ExitCode}}", name); code != "0" {
		e.t.Errorf("%s ended with %s", name, code)
	}
	id := e.run("inspect", "--format", "{{.ID}}", name)
	e.run("rm", name)
	for _, pattern := range []string{"/sys/fs/cgroup/brig-", "/sys/fs/cgroup/*/brig-"} {
		if left, err := filepath.Glob(pattern + id); err != nil || len(left) > 0 {
			e.t.Errorf("control groups are left: %v, %v", left, err)
		}
	}
}
