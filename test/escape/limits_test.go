package escape

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Bounds of what a hostile config.json may cost: an error comes in time, and without much memory.
const (
	inTime   = 10 * time.Second
	inMemory = 160 << 10 // KiB: an environment at the kernel's limit, decoded and as C strings, is a part of it
)

// measured has a command be started by the probe, which says on its own standard error's last line how much memory it took at most: a child of this
// program would begin with this program's own (getrusage(2), ru_maxrss).
func measured(cmd *exec.Cmd) *exec.Cmd {
	cmd.Args = append([]string{probe, "rss", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = probe
	return cmd
}

// maxRSS takes that line off, in KiB.
func maxRSS(r *result) (kib int) {
	i := strings.LastIndex(r.err, "rss ")
	if i < 0 {
		return 0
	}
	fmt.Sscanf(r.err[i:], "rss %d", &kib)
	r.err = r.err[:i]
	return kib
}

// Configurations that are huge, deep or endless are refused.
func TestHugeInput(t *testing.T) {
	text := func(open, unit, end string, n int) string { return open + strings.Repeat(unit, n) + end }
	base := `{"ociVersion":"1.3.0","root":{"path":"rootfs"},"process":{"cwd":"/","args":["true"],"env":["PATH=/bin"%s]},` +
		`"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]},"mounts":[%s]%s}`
	cases := []struct {
		name       string
		env, mount string
		more       string
	}{
		{name: "300 MB"},
		{name: "10^5 mounts", mount: strings.TrimSuffix(strings.Repeat(`{"destination":"/tmp","type":"tmpfs"},`, 1e5), ",")},
		{name: "10^4 hooks", more: `,"hooks":{"createRuntime":[` + strings.TrimSuffix(strings.Repeat(`{"path":"/bin/true"},`, 1e4), ",") + `]}`},
		{name: "deep", more: text(`,"x":`, "[", "", 1e6)},
		{name: "deep and closed", more: `,"x":` + strings.Repeat("[", 1e6) + strings.Repeat("]", 1e6)},
		{name: "annotations of 10 MB", more: text(`,"annotations":{"a":"`, "0123456789", `"}`, 1e6)},
		{name: "an argument over the kernel's limit", env: `,"A=` + strings.Repeat("x", 128<<10) + `"`},
		{name: "an environment over the kernel's limit", env: strings.Repeat(`,"A=`+strings.Repeat("x", 100<<10)+`"`, 70)},
		{name: "10^5 users", more: ""},
	}
	against(t, "size", func(o *oci) (found string) {
		for _, c := range cases {
			bundle := o.bundle(nil)
			config := fmt.Sprintf(base, c.env, c.mount, c.more)
			if c.name == "10^5 users" {
				maps := strings.TrimSuffix(strings.Repeat(`{"containerID":0,"hostID":0,"size":1},`, 1e5), ",")
				config = strings.Replace(config, `"namespaces":[`, `"uidMappings":[`+maps+`],"gidMappings":[`+maps+`],"namespaces":[{"type":"user"},`, 1)
			}
			path := filepath.Join(bundle, "config.json")
			err := os.WriteFile(path, []byte(config), 0o644)
			if c.name == "300 MB" && err == nil {
				err = os.Truncate(path, 300<<20)
			}
			if err != nil {
				o.Fatal(err)
			}
			start := time.Now()
			r := o.finish(measured(o.command("run", "--bundle", bundle, o.id())))
			took, rss := time.Since(start), maxRSS(&r)
			o.Logf("%s: %v, %d MiB: %.120s", c.name, took.Round(time.Millisecond), rss>>10, r.err)
			if r.code == 0 || r.hung || took > inTime || rss > inMemory || strings.Contains(r.err, "goroutine ") || r.err == "" {
				found += fmt.Sprintf("%s: %v, %d MiB, code %d; ", c.name, took, rss>>10, r.code)
				if o.weak != "" {
					return found // one is enough
				}
			}
		}
		return found
	})
}

// A terminal that is written to without end.
func TestOutputFlood(t *testing.T) {
	bytes, most := 50_000_000, 40<<10
	if _, err := os.Stat(weakened); err != nil { // a guest, which is slow, with nothing that would buffer more
		bytes, most = 10_000_000, 12<<10
	}
	against(t, "buffer", func(o *oci) string {
		bundle := o.bundle(func(_ string, s *specs.Spec) {
			s.Process.Terminal = true
			shell(s, fmt.Sprintf("yes 0123456789012345678901234567890123456789 | head -c %d", bytes))
		})
		cmd := measured(o.command("run", "--bundle", bundle, o.id()))
		cmd.Args[1] = "rss-quiet"
		r := o.finish(cmd)
		if r.code != 0 {
			o.Fatal(r)
		}
		if rss := maxRSS(&r); rss == 0 || rss > most {
			return fmt.Sprintf("%d MiB", rss>>10)
		}
		return ""
	})
}

// Many execs at a time leave nothing: no process, no file, no group.
func TestExecFlood(t *testing.T) {
	o := newOCI(t, "")
	id, _ := o.background(o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"sleep", "300"} }))
	count := func() (n int) {
		for _, pattern := range []string{o.root + "/*/*", "/proc/[0-9]*", "/proc/self/fd/*", "/sys/fs/cgroup/*/" + id + "/*"} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			n += len(found)
		}
		return n
	}
	one := func() {
		if r := o.run("exec", id, "head", "-c", "300000", "/dev/zero"); r.code != 0 || len(r.out) != 300000 {
			t.Errorf("code %d, %d bytes: %s", r.code, len(r.out), r.err)
		}
		o.run("exec", id, "/no/such/program")
		o.run("exec", "--user", "x", id, "true")
	}
	one()
	before := count()
	rounds := 8
	if seconds(0) > 0 {
		rounds = 1000
	}
	for range rounds {
		var wait sync.WaitGroup
		for range 6 {
			wait.Add(1)
			go func() {
				defer wait.Done()
				one()
			}()
		}
		wait.Wait()
	}
	after := count()
	for end := time.Now().Add(5 * time.Second); after > before && time.Now().Before(end); after = count() {
		time.Sleep(100 * time.Millisecond)
	}
	if after > before {
		t.Errorf("%d processes and files before, %d after", before, after)
	}
	if got := o.must("ps", "--format", "json", id); strings.Count(got, ",") != 0 {
		t.Errorf("processes left in the container: %s", got)
	}
}

// Sysctls that are not the container's own.
func TestSysctlNames(t *testing.T) {
	value, err := os.ReadFile("/proc/sys/vm/overcommit_ratio")
	if err != nil {
		t.Fatal(err)
	}
	against(t, "sysctl", func(o *oci) (found string) {
		for _, key := range []string{
			"vm.overcommit_ratio", "vm/overcommit_ratio", "kernel.shm_rmid_forced+vm.overcommit_ratio", "kernel.shm_rmid_forced\nvm.overcommit_ratio",
			"net.ipv4.ip_forward/../../../vm/overcommit_ratio", "net/../vm/overcommit_ratio", "kernel.msg/../../vm/overcommit_ratio", "fs.mqueue./../../vm/overcommit_ratio",
			"kernel.core_pattern+kernel.domainname", " kernel.domainname", "kernel.sem\x00", "",
		} {
			r := o.once(o.bundle(func(_ string, s *specs.Spec) {
				s.Linux.Sysctl = map[string]string{key: strings.TrimSpace(string(value))}
			}))
			if r.code == 0 {
				found += fmt.Sprintf("%q; ", key)
			} else if o.weak == "" && !strings.Contains(r.err, "sysctl") {
				o.Errorf("%q: %s", key, r)
			}
		}
		return found
	})
}
