package escape

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// weakImage builds brig-image with the tag brig_weaken, once; empty where there is no compiler.
var weakImage = sync.OnceValues(func() (string, error) {
	if os.Getenv(programsEnv) != "" {
		return "", nil
	}
	name := weakened + "-image"
	build := exec.Command("go", "build", "-tags", "brig_weaken", "-o", name, "brig/cmd/brig-image")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
})

// place is where a hostile image is brought in: a store, and things beside it that must stay as they are.
type place struct {
	top, outside string
	before       string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{top: t.TempDir()}
	p.outside = filepath.Join(p.top, "outside")
	if err := os.Mkdir(p.outside, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "other"} {
		if err := os.WriteFile(filepath.Join(p.outside, name), []byte("untouched"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	p.before = p.look(t)
	return p
}

// look describes all that lies outside of the store: names, kinds, modes, owners, times and content.
func (p *place) look(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(p.top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(p.top, "root") || path == filepath.Join(p.top, "image.tar") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(p.top, path)
		fmt.Fprintf(&b, "%s %v", rel, info.Mode())
		if path != p.top {
			fmt.Fprintf(&b, " %d %s %+v", info.Size(), info.ModTime(), info.Sys())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`Atim:\{[^}]*\}`).ReplaceAllString(b.String(), "")
}

// moved is how a transfer ended.
type moved struct {
	code int
	err  string
	rss  int64 // bytes, at most
	took time.Duration
	out  bool // something outside of the store changed
}

func (m moved) String() string {
	return fmt.Sprintf("code %d after %s with %d MiB, outside changed: %t: %.400s", m.code, m.took.Round(time.Millisecond), m.rss>>20, m.out, m.err)
}

// move runs brig-image; weak names the defences that it is to go without. It is killed after patience.
func (p *place) move(t *testing.T, weak string, request map[string]any, env ...string) moved {
	t.Helper()
	name := program("brig-image")
	if weak != "" {
		var err error
		if name, err = weakImage(); err != nil {
			t.Fatal(err)
		} else if name == "" {
			t.Skip("no compiler: nothing is weakened here")
		}
	}
	b, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, "--root", filepath.Join(p.top, "root"), string(b))
	cmd.Env = append(append(os.Environ(), "BRIG_WEAKEN="+weak, "HOME="+p.top, "DOCKER_CONFIG="+p.top), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop, peak := make(chan struct{}), make(chan int64)
	go watch(cmd.Process.Pid, stop, peak)
	_ = cmd.Wait()
	close(stop)
	m := moved{code: cmd.ProcessState.ExitCode(), err: strings.TrimSpace(errs.String()), rss: <-peak, took: time.Since(begin)}
	m.out = p.look(t) != p.before
	return m
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// watch follows the peak of a process's memory: what wait4(2) tells has the parent's in it, from before the execution.
func watch(pid int, stop <-chan struct{}, peak chan<- int64) {
	var most int64
	for {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
			if m := highWater.FindSubmatch(b); m != nil {
				n, _ := strconv.ParseInt(string(m[1]), 10, 64)
				most = max(most, n<<10)
			}
		}
		select {
		case <-stop:
			peak <- most
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// maxMemory is what brig-image may take of memory, whatever it is given, in bytes: three layers at a time, each with a window of zstd.
const maxMemory = 600 << 20

// sound holds a transfer of something hostile to what is always true.
func (m moved) sound(t *testing.T, name string) {
	t.Helper()
	switch {
	case m.out:
		t.Errorf("%s: something outside changed: %s", name, m)
	case m.code != 0 && m.code != 1 && m.code != 125:
		t.Errorf("%s: %s", name, m)
	case m.code != 0 && (m.err == "" || strings.Contains(m.err, "panic") || strings.Contains(m.err, "goroutine ")):
		t.Errorf("%s: it does not say why: %s", name, m)
	case m.rss > maxMemory:
		t.Errorf("%s: too much memory: %s", name, m)
	case m.took > patience:
		t.Errorf("%s: too long: %s", name, m)
	}
}

// load brings in an archive.
func (p *place) load(t *testing.T, weak string, archive []byte, env ...string) moved {
	t.Helper()
	path := filepath.Join(p.top, "image.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	return p.move(t, weak, map[string]any{"op": "load", "file": path, "quiet": true}, env...)
}

// entry is a file of a tar, as an attacker writes it.
type entry struct {
	tar.Header
	data string
}

func asFile(name, data string) entry { return entry{tar.Header{Name: name, Mode: 0o644}, data} }
func asDir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}
func asLink(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, ""}
}
func asHard(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}, ""}
}

// tarOf writes a tar.
func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.data))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.data)
	}
	w.Close()
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func sum(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// bundle is an OCI image with its blobs, for an attacker to bend before it is packed or served.
type bundle struct {
	t      *testing.T
	blobs  map[string][]byte // by digest
	target map[string]any    // descriptor
}

func newBundle(t *testing.T) *bundle { return &bundle{t: t, blobs: map[string][]byte{}} }

// put stores a blob and describes it.
func (b *bundle) put(mediaType string, v any) map[string]any {
	b.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			b.t.Fatal(err)
		}
	}
	b.blobs[sum(data)] = data
	return map[string]any{"mediaType": mediaType, "digest": sum(data), "size": len(data)}
}

// image makes an image of layers, given as tars, and of what a config says beside them. bend may change the manifest.
func (b *bundle) image(config map[string]any, bend func(manifest map[string]any), layers ...[]byte) *bundle {
	b.t.Helper()
	ids, descs := []string{}, []any{}
	for _, l := range layers {
		packed := gzipped(l)
		ids, descs = append(ids, sum(l)), append(descs, b.put(ociLayer+"+gzip", packed))
	}
	c := map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": config, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}}
	m := map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": b.put(ociConfig, c), "layers": descs}
	if bend != nil {
		bend(m)
	}
	b.target = b.put(ociManifest, m)
	return b
}

// tar packs it as an OCI archive. The target may be anything.
func (b *bundle) tar(name string) []byte {
	b.t.Helper()
	target := map[string]any{"annotations": map[string]string{"io.containerd.image.name": name}}
	for k, v := range b.target {
		target[k] = v
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []any{target}})
	if err != nil {
		b.t.Fatal(err)
	}
	entries := []entry{asFile("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), asFile("index.json", string(index))}
	for d, data := range b.blobs {
		entries = append(entries, asFile("blobs/"+strings.Replace(d, ":", "/", 1), string(data)))
	}
	return tarOf(b.t, entries...)
}
