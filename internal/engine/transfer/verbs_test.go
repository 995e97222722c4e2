package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

// config reads the config of an image in the store.
func (w *world) config(id string) (c struct {
	imagespec.Image
	Config struct {
		imagespec.ImageConfig
		api.ImageExtra
	} `json:"config"`
}) {
	w.Helper()
	b, err := w.tr.stores.Content.Bytes(digest.Digest(id), 1<<20)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// stdin lets the next request read b.
func (w *world) stdin(b []byte) {
	w.Helper()
	file := filepath.Join(w.TempDir(), "stdin")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		w.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { f.Close() })
	w.tr.Stdin = f
}

func TestImport(t *testing.T) {
	w := newWorld(t)
	layer := imagetest.Layer("etc/motd", "hello")
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	if err := os.WriteFile(file, layer, 0o600); err != nil {
		t.Fatal(err)
	}
	sources := map[string][]byte{file: nil, "": layer, "gzip": imagetest.Gzip(layer), "zstd": imagetest.Zstd(layer)}
	for _, program := range []string{"bzip2", "xz"} {
		if _, err := exec.LookPath(program); err == nil {
			out, err := exec.Command(program, "-c", file).Output()
			if err != nil {
				t.Fatal(err)
			}
			sources[program] = out
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "u" || pass != "secret" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.Write(imagetest.Gzip(layer))
	}))
	defer server.Close()
	address := strings.Replace(server.URL, "http://", "http://u:secret@", 1) + "/a.tgz"
	sources[address] = nil
	for name, in := range sources {
		r := api.TransferRequest{Op: "import", File: name, Refs: []string{"x:1"}, Changes: []string{`CMD ["sh","-c"]`, "ENV A=1"}}
		if in != nil {
			w.stdin(in)
			r.File = ""
		}
		reply, _, _, err := w.do(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		rec := reply.Images[0]
		if w.file(rec.Layers[0].DiffID, "etc/motd") != "hello" || rec.Layers[0].DiffID != digest.FromBytes(layer).String() || rec.Name != "docker.io/library/x:1" || rec.Config.Cmd[0] != "sh" {
			t.Errorf("%s: %+v", name, rec)
		}
		c := w.config(rec.ID)
		from := "Imported from -"
		if name == address {
			from = "Imported from " + strings.Replace(address, "secret", "xxxxx", 1)
		}
		if len(c.History) != 1 || c.History[0].Comment != from || c.Created == nil || c.OS != "linux" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	// One for another machine is made, and said to be for it.
	reply, _, _, err := w.do(api.TransferRequest{Op: "import", File: file, Platform: "linux/arm/v6", Message: "mine"})
	if err != nil || reply.Images[0].Platform != "linux/arm/v6" || reply.Images[0].Name != "" || w.config(reply.Images[0].ID).History[0].Comment != "mine" {
		t.Errorf("%+v, %v", reply, err)
	}
}

// TestImportRefused: nothing is left of an archive that is none, that is cut or too long, or that reaches out of the layer.
func TestImportRefused(t *testing.T) {
	w := newWorld(t)
	layer := imagetest.Layer("a", strings.Repeat("b", 100_000))
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "../../outside", Mode: 0o644})
	tw.Close()
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/404":
			rw.WriteHeader(http.StatusNotFound)
		case "/loop":
			http.Redirect(rw, r, "/loop", http.StatusFound)
		case "/file":
			http.Redirect(rw, r, "file:///etc/passwd", http.StatusFound)
		case "/cut":
			rw.Header().Set("Content-Length", "1000000")
			rw.Write(layer)
		}
	}))
	server.Config.ErrorLog = nil
	defer server.Close()
	plain := httptest.NewServer(server.Config.Handler)
	defer plain.Close()
	for name, c := range map[string]struct {
		in    []byte
		file  string
		kind  api.Kind
		words string
	}{
		"not a tar":       {in: []byte(strings.Repeat("hello", 1000)), kind: api.Corrupt},
		"empty":           {in: []byte{}, kind: api.InvalidArgument, words: "empty"},
		"cut gzip":        {in: imagetest.Gzip(layer)[:100], kind: api.Corrupt, words: "gzip"},
		"cut tar":         {in: layer[:1024], kind: api.Corrupt},
		"out":             {in: out.Bytes(), kind: api.Corrupt, words: "out of the layer"},
		"bad bzip2":       {in: []byte("BZh91AY&SYxxxxxxxxxxxxxxxx"), kind: api.Corrupt, words: "bzip2"},
		"bad xz":          {in: []byte("\xfd7zXZ\x00xxxxxxxxxxxxxxxxxxxxxxxxx"), words: "xz"},
		"xz with 4 GiB":   {in: []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00\x20\xb4\x8a\x1d"), words: "xz"},
		"no file":         {file: "/no/such/file", kind: api.NotFound},
		"a folder":        {file: t.TempDir(), kind: api.InvalidArgument, words: "tar -C"},
		"404":             {file: plain.URL + "/404", kind: api.NotFound, words: "404"},
		"loop":            {file: plain.URL + "/loop", kind: api.Unavailable, words: "redirects"},
		"another scheme":  {file: plain.URL + "/file", kind: api.Unavailable, words: "only http and https"},
		"cut on the way":  {file: plain.URL + "/cut", kind: api.Unavailable},
		"unknown issuer":  {file: server.URL + "/cut", kind: api.Unavailable, words: "certificate"},
		"nobody there":    {file: "http://127.0.0.1:1/x", kind: api.Unavailable, words: "refused"},
		"no URL":          {file: "http://[/x", kind: api.InvalidArgument},
		"password hidden": {file: "http://u:secret@127.0.0.1:1/x", kind: api.Unavailable, words: "u:xxxxx@"},
	} {
		if strings.Contains(name, "xz") {
			if _, err := exec.LookPath("xz"); err != nil {
				continue
			}
		}
		if c.in != nil {
			w.stdin(c.in)
		}
		_, _, _, err := w.do(api.TransferRequest{Op: "import", File: c.file, Refs: []string{"x:1"}})
		if err == nil || c.kind != "" && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v (%s)", name, err, api.KindOf(err))
		}
		w.empty()
	}
	for _, r := range []api.TransferRequest{{Refs: []string{"UP"}}, {Refs: []string{"x@sha256:" + strings.Repeat("0", 64)}}, {Changes: []string{"RUN x"}}, {Platform: "/"}} {
		r.Op = "import"
		if _, _, _, err := w.do(r); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// TestLayerTooLong: a stream that unpacks to more than there is room for is given up while it comes.
func TestLayerTooLong(t *testing.T) {
	w := newWorld(t)
	n := 0
	_, err := w.tr.pack(1<<20, func(out io.Writer) error {
		for {
			m, err := out.Write(make([]byte, 64<<10))
			if n += m; err != nil {
				return err
			}
		}
	})
	if !errors.Is(err, api.Exhausted) || n > 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	w.empty()
}

// TestImportInterrupted: a pipe that brings nothing more does not hold the import when it is cancelled, and nothing is left.
func TestImportInterrupted(t *testing.T) {
	w := newWorld(t)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	defer pr.Close()
	pw.Write(imagetest.Layer("a", "b")[:700])
	w.tr.Stdin = pr
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := w.tr.Do(ctx, api.TransferRequest{Op: "import", Refs: []string{"x:1"}})
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for the pipe")
	}
	w.empty()
}

// container makes a record of a container of img with a writable layer, as if it had run. It returns the folder of its changes.
func (w *world) container(img api.Image, spec api.ContainerSpec) (api.Container, string) {
	w.Helper()
	if os.Geteuid() != 0 {
		w.Skip("mounting needs root")
	}
	w.Cleanup(func() { exec.Command("rm", "-rf", filepath.Join(w.root, "snapshot")).Run() }) // deeper than a path is long
	c := api.Container{ID: strings.Repeat("c0", 32), Name: "box", Spec: spec, Image: img.ID, ImageName: "x:1", ImageConfig: img.Config, Created: time.Now()}
	for _, l := range img.Layers {
		c.Layers = append(c.Layers, l.DiffID)
	}
	if err := w.tr.stores.Meta.CreateContainer(c, atomicfile.Volatile); err != nil {
		w.Fatal(err)
	}
	if _, err := w.tr.stores.Snapshot.Prepare(c.ID, c.Layers, atomicfile.Durable); err != nil {
		w.Fatal(err)
	}
	upper, err := w.tr.upper(&c)
	if err != nil {
		w.Fatal(err)
	}
	return c, upper
}

// imported is an image of layers, each a tar.
func (w *world) imported(layers ...[]byte) api.Image {
	w.Helper()
	p := w.reg.OCI(imagetest.Gzip, layers...)
	w.reg.PutImage(p, "1")
	reply, err := w.pull("x:1")
	if err != nil {
		w.Fatal(err)
	}
	return reply.Images[0]
}

// entries are the names in a tar.
func entries(t *testing.T, b []byte) (names []string) {
	t.Helper()
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func TestExport(t *testing.T) {
	for n := range 3 { // layers
		w := newWorld(t)
		var all [][]byte
		for i := range n {
			all = append(all, imagetest.Layer(fmt.Sprint("layer", i), "x"))
		}
		_, upper := w.container(w.imported(all...), api.ContainerSpec{})
		if err := os.WriteFile(filepath.Join(upper, "made"), []byte("y"), 0o600); err != nil {
			t.Fatal(err)
		}
		want := []string{"./", "layer0", "layer1", "made"}
		if n > 0 { // what is removed is not there
			if err := unix.Mknod(filepath.Join(upper, "layer0"), unix.S_IFCHR, 0); err != nil {
				t.Fatal(err)
			}
		}
		want = slices.DeleteFunc(want, func(s string) bool { return s == "layer0" || s == "layer1" && n < 2 })
		file := filepath.Join(t.TempDir(), "out.tar")
		if _, _, _, err := w.do(api.TransferRequest{Op: "export", Container: strings.Repeat("c0", 32), File: file}); err != nil {
			t.Fatal(err)
		}
		b, _ := os.ReadFile(file)
		if got := entries(t, b); !slices.Equal(got, want) {
			t.Errorf("%d layers: %q, want %q", n, got, want)
		}
		_, stdout, _, err := w.do(api.TransferRequest{Op: "export", Container: strings.Repeat("c0", 32)})
		if err != nil || stdout != string(b) {
			t.Errorf("%d layers: another archive on standard output, %v", n, err)
		}
		if _, _, _, err := w.do(api.TransferRequest{Op: "export", Container: "nothing", File: file}); !errors.Is(err, api.NotFound) {
			t.Error(err)
		}
		dir := t.TempDir()
		if _, _, _, err := w.do(api.TransferRequest{Op: "export", Container: strings.Repeat("c0", 32), File: filepath.Join(dir, "no", "such")}); err == nil {
			t.Error("a folder that is not there was written to")
		}
	}
}

// TestOverlayInPlace: kernels before 6.5 get the same mount by way of a mount namespace, which leaves nothing among this one's mounts.
func TestOverlayInPlace(t *testing.T) {
	w := newWorld(t)
	c, upper := w.container(w.imported(imagetest.Layer("a", "1"), imagetest.Layer("b", "2")), api.ContainerSpec{})
	os.WriteFile(filepath.Join(upper, "c"), []byte("3"), 0o600)
	lower, _, err := w.tr.lowers(&c)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile("/proc/thread-self/mountinfo")
	fd, err := overlayInPlace("index=off,lowerdir="+strings.Join(append([]string{upper}, lower...), ":"), w.root)
	if err != nil {
		t.Skip(err) // no overlay here
	}
	defer unix.Close(fd)
	if after, _ := os.ReadFile("/proc/thread-self/mountinfo"); !bytes.Equal(before, after) {
		t.Error("a mount is left")
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || len(names) != 3 {
		t.Errorf("%v, %v", names, err)
	}
	if err := unix.Mkdirat(fd, "d", 0o700); err != unix.EROFS {
		t.Errorf("it can be written to: %v", err)
	}
}

// TestExportHostile: what a container may have made neither leads out, nor holds the export up, nor reaches the terminal raw.
func TestExportHostile(t *testing.T) {
	w := newWorld(t)
	_, upper := w.container(w.imported(imagetest.Layer("a", "1")), api.ContainerSpec{})
	secret := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(secret, []byte("SECRET"), 0o600)
	os.Symlink(secret, filepath.Join(upper, "link"))
	os.Symlink(filepath.Dir(secret), filepath.Join(upper, "dirlink"))
	unix.Mkfifo(filepath.Join(upper, "fifo"), 0o600)
	unix.Mknod(filepath.Join(upper, "console"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1)))
	for i := range 100 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("s%d\x1b[2J\n", i)
		dir, err := os.Open(upper)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)}); err != nil {
			t.Fatal(err)
		}
		dir.Close()
		unix.Close(fd)
	}
	_, stdout, stderr, err := w.do(api.TransferRequest{Op: "export", Container: strings.Repeat("c0", 32)})
	if err != nil || strings.Contains(stdout, "SECRET") {
		t.Errorf("%v, or the secret is out", err)
	}
	if got := entries(t, []byte(stdout)); !slices.Equal(got, []string{"./", "a", "console", "dirlink", "fifo", "link"}) {
		t.Errorf("%q", got)
	}
	if strings.Contains(stderr, "\x1b") || strings.Count(stderr, "\n") != maxWarnings+1 || !strings.Contains(stderr, "and 80 more") {
		t.Errorf("warnings: %q", stderr)
	}
	// One that is removed meanwhile leaves no archive.
	file := filepath.Join(t.TempDir(), "out.tar")
	if err := w.tr.stores.Meta.RemoveContainer(strings.Repeat("c0", 32)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "export", Container: strings.Repeat("c0", 32), File: file}); err == nil {
		t.Error("a container that is gone was exported")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("an archive is left")
	}
}

func TestCommit(t *testing.T) {
	w := newWorld(t)
	base := w.imported(imagetest.Layer("a", "1"), imagetest.Layer("b", "2"))
	spec := api.ContainerSpec{
		Command: []string{"run", "this"}, Env: []string{"NEW=1", "PATH"}, Labels: map[string]string{"l": "v"}, User: "7", WorkingDir: "/w", StopSignal: "SIGINT",
		Network: api.NetworkSpec{Ports: []api.PortSpec{{ContainerPort: 80, Protocol: "tcp"}}},
	}
	_, upper := w.container(base, spec)
	os.WriteFile(filepath.Join(upper, "made"), []byte("y"), 0o640)
	os.Mkdir(filepath.Join(upper, "etc"), 0o755)
	for _, f := range []string{"hosts", "hostname", "resolv.conf"} { // what Brig makes to mount its own on
		os.WriteFile(filepath.Join(upper, "etc", f), nil, 0o644)
	}
	unix.Mknod(filepath.Join(upper, "a"), unix.S_IFCHR, 0)
	r := api.TransferRequest{Op: "commit", Container: strings.Repeat("c0", 32), Refs: []string{"new:1"}, Author: "me", Message: "words", Changes: []string{"HEALTHCHECK --interval=5s CMD true", "ONBUILD RUN x"}}
	reply, _, _, err := w.do(r)
	if err != nil {
		t.Fatal(err)
	}
	rec := reply.Images[0]
	c := w.config(rec.ID)
	top := rec.Layers[2]
	if w.file(top.DiffID, "made") != "y" || len(rec.Layers) != 3 || rec.Layers[0].Blob.Digest != base.Layers[0].Blob.Digest || rec.Name != "docker.io/library/new:1" || top.Blob.MediaType != imagespec.MediaTypeImageLayerGzip {
		t.Errorf("%+v", rec)
	}
	blob, err := w.tr.stores.Content.Reader(top.Blob.Digest)
	if err != nil {
		t.Fatal(err)
	}
	plain, kind, err := image.Decompress(blob)
	if err != nil || kind != image.Gzip {
		t.Fatal(kind, err)
	}
	archive, err := io.ReadAll(plain)
	if got := entries(t, archive); err != nil || !slices.Equal(got, []string{"./", ".wh.a", "etc/", "made"}) {
		t.Errorf("%q, %v", got, err)
	}
	conf := c.Config
	if !slices.Equal(conf.Cmd, spec.Command) || !slices.Contains(conf.Env, "NEW=1") || slices.ContainsFunc(conf.Env, func(s string) bool { return strings.HasPrefix(s, "PATH=") }) ||
		conf.Labels["l"] != "v" || conf.User != "7" || conf.WorkingDir != "/w" || conf.StopSignal != "SIGINT" || len(conf.ExposedPorts) != 1 || conf.Healthcheck.Interval != 5*time.Second || conf.OnBuild[0] != "RUN x" {
		t.Errorf("%+v", conf)
	}
	last := c.History[len(c.History)-1]
	if c.Author != "me" || last.Author != "me" || last.Comment != "words" || last.CreatedBy != "run this" || last.EmptyLayer || len(c.RootFS.DiffIDs) != 3 {
		t.Errorf("%+v", c)
	}
	// Once more: the same layer, for nothing has changed; and as docker's own format has it, from a base that was in that.
	reply, _, _, err = w.do(r)
	if err != nil || reply.Images[0].Layers[2].Blob.Digest != top.Blob.Digest {
		t.Errorf("the same changes are another layer: %+v, %v", reply, err)
	}
}

// TestCommitRefused: nothing of a commit that fails is seen.
func TestCommitRefused(t *testing.T) {
	w := newWorld(t)
	base := w.imported(imagetest.Layer("a", "1"))
	c, upper := w.container(base, api.ContainerSpec{})
	images := func() int {
		all, err := w.tr.stores.Meta.Images()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	blobs := func() int {
		all, err := w.tr.stores.Content.Blobs()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	wantBlobs := blobs()
	commit := func(r api.TransferRequest, word string) {
		t.Helper()
		r.Op, r.Container = "commit", c.ID
		if _, _, _, err := w.do(r); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v, want %q in it", err, word)
		}
		if images() != 1 || blobs() != wantBlobs {
			t.Errorf("%d images, %d blobs", images(), blobs())
		}
	}
	commit(api.TransferRequest{Refs: []string{"A"}}, "lowercase")
	commit(api.TransferRequest{Changes: []string{"RUN x"}}, "RUN")
	odd := filepath.Join(upper, ".wh.x")
	os.WriteFile(odd, nil, 0o600)
	commit(api.TransferRequest{}, ".wh.x")
	os.Remove(odd)
	huge := filepath.Join(upper, "huge")
	os.WriteFile(huge, nil, 0o600)
	if err := os.Truncate(huge, 8<<40); err != nil {
		t.Fatal(err)
	}
	commit(api.TransferRequest{}, "huge")
	os.Remove(huge)
	// Cancelled in the middle.
	os.WriteFile(filepath.Join(upper, "big"), noise(8<<20), 0o600)
	ctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := w.tr.Do(ctx, api.TransferRequest{Op: "commit", Container: c.ID}); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	} else if err != nil && (images() != 1 || blobs() != wantBlobs) {
		t.Errorf("cancelled: %d images, %d blobs", images(), blobs())
	}
	// Without its image there is nothing to go on from.
	if err := w.tr.stores.Meta.RemoveImage(base.Name); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "commit", Container: c.ID}); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "x:1") {
		t.Error(err)
	}
}
