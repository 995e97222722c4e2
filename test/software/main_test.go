// Package software runs what people run in containers at every level of isolation: Debian's apt-get, python3, nginx under wrk, redis under
// redis-benchmark, PostgreSQL under pgbench, which is killed and recovers, and Go's compiler. It holds them to what they do without a container.
//
// make test-levels runs it: the first time it makes a Debian of these packages, in .cache, from the mirror that the machine's apt uses. Nothing else comes from
// outside: the containers' apt-get asks a repository that the test serves.
package software

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

const (
	gate    = "BRIG_TEST_LEVELS"
	tarball = "BRIG_TEST_SERVERS_TARBALL"
	cache   = "../../.cache"
	image   = "software"
)

func TestMain(m *testing.M) {
	if os.Getenv(gate) != "" && os.Geteuid() == 0 {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// prepare fetches what comes from the mirror, and then moves the test into namespaces with a loopback interface only.
func prepare() error {
	if !machine.Inside() {
		file, err := machine.DebianTarball(cache, machine.Servers()...)
		if err != nil {
			return err
		}
		if err := errors.Join(fetchPackages(), os.Setenv(tarball, file)); err != nil {
			return err
		}
	}
	return errors.Join(machine.Programs("../../bin"), machine.Private(false))
}

// level is a level of isolation.
type level struct {
	name  string
	needs []string // files without which it is skipped
	host  bool     // it has the host's network: nothing is published, servers listen on the host's addresses
	slow  bool     // its processor may be an emulated one, some twenty times slower: loads are smaller
}

func levels() []level {
	return []level{
		{name: "chroot", host: true},
		{name: "container"},
		{name: "container,userns"},
		{name: "gvisor", needs: []string{machine.Program("brig-sentry")}},
		{name: "vm", slow: true, needs: []string{machine.Program("vm-kernel"), "/usr/bin/qemu-system-x86_64", "/usr/lib/qemu/virtiofsd"}},
	}
}

// place is a Brig whose containers have one level.
type place struct {
	*testing.T
	level
	root, state string
}

// brig runs a command that must succeed, and returns what it printed.
func (p *place) brig(args ...string) string {
	p.Helper()
	r := p.try(args...)
	if r.Code != 0 {
		p.Fatalf("brig %s: code %d\n%s%s", strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return strings.TrimSpace(r.Out)
}

// try runs a command, which has ten minutes.
func (p *place) try(args ...string) machine.Result {
	p.Helper()
	cmd := machine.Command(p.root, p.state, args...)
	r, err := machine.Run(cmd, 10*time.Minute, cmd.Start)
	if err != nil {
		p.Fatal(err)
	}
	return r
}

// run is run with a container of the place's level.
func (p *place) run(args ...string) string {
	p.Helper()
	all := []string{"run", "--isolation", p.name}
	if p.host {
		all = append(all, "--network", "host")
	}
	return p.brig(append(all, args...)...)
}

// serve starts a server that listens on a port in a container of the place's level, published as the same one of the host's, until the test ends.
func (p *place) serve(name, port string, args ...string) {
	p.Helper()
	all := []string{"-d", "--name", name}
	if !p.host {
		all = append(all, "-p", "127.0.0.1:"+port+":"+port)
	}
	p.Cleanup(func() { p.brig("rm", "-f", "-v", name) })
	p.run(append(all, args...)...)
}

// client runs a program on the host's network, as one who uses a server does. It is in a container of level chroot, which costs the load nothing.
func (p *place) client(args ...string) machine.Result {
	p.Helper()
	return p.try(append([]string{"run", "--rm", "--isolation", "chroot", "--network", "host", image}, args...)...)
}

// logs are what a server has written.
func (p *place) logs(server string) string {
	r := p.try("logs", server)
	return r.Out + r.Err
}

// await repeats a client's command until its output has a text, five minutes at most.
func (p *place) await(text, server string, args ...string) {
	p.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
		r := p.client(args...)
		if strings.Contains(r.Out, text) {
			return
		}
		if time.Now().After(deadline) {
			p.Fatalf("%s: %s\nlog of %s: %s", strings.Join(args, " "), r, server, p.logs(server))
		}
	}
}

// pick is the smaller of two sizes where all is slow.
func (p *place) pick(usual, small string) string {
	if p.slow {
		return small
	}
	return usual
}

// TestSoftware: each program, at each level.
func TestSoftware(t *testing.T) {
	if os.Getenv(gate) == "" {
		t.Skip("makes a Debian from a package mirror and loads servers at every level, which takes a quarter of an hour: make test-levels")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, as containers of levels chroot, gvisor and vm do")
	}
	before, err := machine.Take()
	if err != nil {
		t.Fatal(err)
	}
	p := &place{T: t, root: t.TempDir()}
	if p.state, err = os.MkdirTemp("", "s"); err != nil {
		t.Fatal(err)
	}
	left := func(t *testing.T, kinds ...string) {
		list, err := before.Settle(10*time.Second, kinds...)
		if err != nil || len(list) > 0 {
			t.Errorf("left behind: %q, %v", list, err)
		}
	}
	t.Cleanup(func() {
		p.brig("system", "reset", "--force")
		left(t)
		os.RemoveAll(p.state)
	})
	p.brig("import", os.Getenv(tarball), image)
	repository := serveRepository(t)
	for _, l := range levels() {
		t.Run(l.name, func(t *testing.T) {
			for _, file := range l.needs {
				if _, err := os.Stat(file); err != nil {
					t.Skipf("%v: make build setup-vm guest-kernel", err)
				}
			}
			for name, program := range map[string]func(*place){
				"apt-get": func(p *place) { aptGet(p, repository) }, "python": python, "nginx": nginx, "redis": redis, "postgresql": postgresql, "go": goBuild, "codes": codes,
			} {
				t.Run(name, func(t *testing.T) {
					t.Cleanup(func() { left(t, "mount", "process") })
					begin := time.Now()
					program(&place{T: t, level: l, root: p.root, state: p.state})
					t.Logf("%.0f s", time.Since(begin).Seconds())
				})
			}
		})
	}
}

func goRoot(t *testing.T) string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("go env GOROOT: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func absolute(t *testing.T, path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
