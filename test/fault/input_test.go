package fault

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
)

// refused wants the command to end with code and to say each of the words, and the world to be as before.
func (w *world) refused(code int, words []string, args ...string) {
	w.t.Helper()
	w.fails(code, words, args...)
	w.mustBeClean(strings.Join(args, " "))
}

// fails runs what has to end with a code and to say some words.
func (w *world) fails(code int, words []string, args ...string) {
	w.t.Helper()
	r := w.brig(args...)
	if r.Code != code {
		w.t.Errorf("brig %s: want code %d: %s", strings.Join(args, " "), code, r)
	}
	for _, word := range words {
		if !strings.Contains(r.Err, word) {
			w.t.Errorf("brig %s: no %q in %q", strings.Join(args, " "), word, r.Err)
		}
	}
}

// TestRefusals: what cannot start says so with docker's exit codes, and is gone: with --rm at once, else when it is removed. Each is asked often enough to meet a race.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	for range 5 * scale() {
		for _, c := range []struct {
			code  int
			words []string
			args  []string
		}{
			{127, []string{"nothere", "not found"}, []string{"brig/base", "nothere"}},
			{126, []string{"/etc/passwd", "permission denied"}, []string{"brig/base", "/etc/passwd"}},
			{125, []string{port, "in use"}, []string{"-p", "127.0.0.1:" + port + ":80", "brig/base", "true"}},
		} {
			w.refused(c.code, c.words, append([]string{"run", "--rm"}, c.args...)...)
			w.fails(c.code, c.words, append([]string{"run", "--name", "left"}, c.args...)...)
			w.must("rm", "left")
			w.mustBeClean("after rm")
		}
	}
	w.refused(125, []string{"nosuch"}, "run", "--pull", "never", "nosuch")
	w.must("run", "-d", "--name", "first", "-p", "9090:80", "brig/base", "sleep", "600")
	base := w.base
	w.base = w.things()
	id := w.inspect("first").ID
	w.refused(125, []string{"9090", id[:12]}, "run", "--rm", "-p", "9090:80", "brig/base", "true")
	w.refused(125, []string{`"first"`, id}, "run", "--rm", "--name", "first", "brig/base", "true")
	w.refused(1, []string{"running", "rm -f"}, "rm", "first")
	w.must("rm", "-f", "first")
	w.base = base
	w.mustBeClean("after rm")
}

// TestDamagedPulls: a registry that lies, cuts off or fails in the middle.
func TestDamagedPulls(t *testing.T) {
	w := newWorld(t)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var damage func([]byte) []byte
	big := func(body []byte) bool { return len(body) > 10_000 }
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, req *http.Request) {
		if damage == nil || req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
			inner.ServeHTTP(out, req)
			return
		}
		req.Header.Del("Range") // a server that knows no ranges
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, req)
		body := rec.Body.Bytes()
		out.Header().Set("Content-Length", strconv.Itoa(len(body))) // as if all came
		out.WriteHeader(rec.Code)
		if big(body) {
			body = damage(bytes.Clone(body))
		}
		out.Write(body)
	}))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://") + "/damaged"
	image, err := random.Image(50_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(at, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func([]byte) []byte{
		"digest":     func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"unexpected": func(b []byte) []byte { return b[:len(b)/2] },
	} {
		damage = f
		r := w.brig("run", "--rm", at, "true")
		if r.Code != 125 || !strings.Contains(r.Err, "sha256:") {
			t.Errorf("%s: %s", what, r)
		}
		if out := w.must("images", "-q", at); out != "" {
			t.Errorf("%s: the store has image %s", what, out)
		}
		if left := w.containers(); len(left) > 0 {
			t.Errorf("%s: ps -a lists %v", what, left)
		}
	}
	damage = nil
	w.must("pull", at)
	w.must("rmi", at)
}

// smallDisk mounts a tmpfs of that size on dir for the time of the test.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	needRoot(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill takes the rest of a disk with one file, to be removed again.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "filler")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 16
		}
	}
	return file
}

// TestFullRoot: with the disk full a container runs on, can be stopped and removed, and what cannot be done says why.
func TestFullRoot(t *testing.T) {
	disk := t.TempDir()
	smallDisk(t, disk, "40m")
	w := newWorldAt(t, filepath.Join(disk, "root"))
	const chatter = "i=0; while [ $i -lt 200000 ]; do echo line $i; i=$((i+1)); done; echo done >&2; sleep 600"
	w.must("run", "-d", "--name", "talks", "brig/base", "sh", "-c", "sleep 0.5; "+chatter)
	w.must("run", "-d", "--name", "quiet", "brig/base", "sh", "-c", "sleep 0.5; exit 3")
	w.must("run", "-d", "--name", "other", "brig/base", "sleep", "600")
	filler := fill(t, disk)
	full := "no space left"
	for _, args := range [][]string{
		{"run", "--rm", "brig/base", "true"}, {"run", "-d", "brig/base", "true"}, {"create", "brig/base"}, {"run", "--rm", "-v", "vol:/etc", "brig/base", "true"},
	} {
		if r := w.brig(args...); r.Code == 0 || !strings.Contains(r.Err, full) {
			t.Errorf("brig %s on a full disk: %s", strings.Join(args, " "), r)
		}
	}
	if n := len(w.containers()); n != 3 {
		t.Errorf("%d containers after failures, want 3", n)
	}
	if err := eventually(func() error { return w.says("exited", "inspect", "quiet") }); err != nil {
		t.Error(err)
	}
	if s := w.inspect("quiet").State; s.ExitCode != 3 {
		t.Errorf("the exit status on a full disk: %+v, want 3", s)
	}
	if s := w.inspect("talks").State; !s.Running {
		t.Errorf("who writes a log to a full disk: %+v", s)
	}
	if out := w.must("exec", "talks", "echo", "hears"); out != "hears" {
		t.Errorf("exec: %q", out)
	}
	start := time.Now()
	w.must("stop", "-t", "0", "other")
	w.must("rm", "-f", "quiet")
	w.must("rm", "-f", "talks")
	if s := w.inspect("other").State; s.ExitCode != 137 {
		t.Errorf("the exit status after stop on a full disk: %+v", s)
	}
	w.must("rm", "-f", "other")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("removal on a full disk took %s", took)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.must("run", "--rm", "-v", "/data", "brig/base", "true")
	w.mustBeClean("after the disk has room again")
}

// TestFullState is the same for the boot-lived folder.
func TestFullState(t *testing.T) {
	w := newWorld(t)
	state := w.state
	smallDisk(t, filepath.Join(state, "small"), "256k")
	w.state = filepath.Join(state, "small", "s")
	defer func() { w.must("system", "reset", "--force"); w.state = state }()
	w.must("run", "--rm", "-p", "1:1", "brig/base", "true")
	w.must("run", "-d", "--name", "lives", "-p", "8080:80", "brig/base", "sleep", "600")
	base := w.things()
	filler := fill(t, filepath.Join(state, "small"))
	for range 3 {
		r := w.brig("run", "--rm", "-p", "81:81", "brig/base", "true")
		if r.Code != 125 || !strings.Contains(r.Err, "no space left") {
			t.Errorf("run with a full state folder: %s", r)
		}
	}
	if out := w.must("ps", "-aq"); len(strings.Fields(out)) != 1 {
		t.Errorf("ps -aq: %q", out)
	}
	w.must("exec", "lives", "true")
	os.Remove(filler)
	w.must("run", "--rm", "-p", "81:81", "brig/base", "true")
	w.base = base
	w.mustBeClean("after the state folder has room again")
	w.must("rm", "-f", "lives")
}

// TestReadOnlyRoot: a root that cannot be written names itself and the cause.
func TestReadOnlyRoot(t *testing.T) {
	disk := t.TempDir()
	smallDisk(t, disk, "40m")
	w := newWorldAt(t, filepath.Join(disk, "root"))
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	r := w.brig("run", "--rm", "brig/base", "true")
	if r.Code != 125 || !strings.Contains(r.Err, "read-only") || !strings.Contains(r.Err, w.root) {
		t.Errorf("run: %s", r)
	}
	w.must("images")
	w.must("ps", "-a")
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	w.must("run", "--rm", "brig/base", "true")
	w.mustBeClean("after it can be written again")
}
