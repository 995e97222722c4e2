package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"brig/api"
	"brig/test/machine"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// The test binary is also the process that works beside the test: with childEnv set to a store's folder it does what its arguments say.
const childEnv = "BRIG_TEST_CONTENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(Open(dir), os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(s *Store, verb, name string) error {
	switch verb {
	case "refs": // twenty references of one process
		for i := range 20 {
			if err := s.SetRef(fmt.Sprint(name, "/", i), imagespec.Descriptor{Digest: digest.FromString(name)}); err != nil {
				return err
			}
		}
		return s.RemoveRef(name + "/0")
	case "write": // part of a blob, then wait to be killed
		w, err := s.Writer(context.Background(), "", -1)
		if err != nil {
			return err
		}
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		fmt.Println("written")
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	return errors.New("no such verb")
}

func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func put(t testing.TB, s *Store, b []byte) digest.Digest {
	t.Helper()
	w, err := s.Writer(context.Background(), "", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	d, n, err := w.Commit()
	if err != nil || n != int64(len(b)) {
		t.Fatal(n, err)
	}
	return d
}

func ingest(dir string) []string {
	names, _ := readNames(filepath.Join(dir, "ingest"))
	return names
}

func TestWriteAndRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root", "content")
	s := Open(dir)
	text := bytes.Repeat([]byte("0123456789"), 10000)
	want := digest.FromBytes(text)
	if s.Has(want) {
		t.Error("there before")
	}
	if _, err := s.Reader(want); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	for range 2 { // the second time it is there already
		if d := put(t, s, text); d != want {
			t.Fatal(d)
		}
	}
	if n, err := s.Size(want); n != int64(len(text)) || err != nil || !s.Has(want) {
		t.Error(n, err)
	}
	if b, err := s.Bytes(want, int64(len(text))); !bytes.Equal(b, text) || err != nil {
		t.Error(len(b), err)
	}
	if _, err := s.Bytes(want, int64(len(text))-1); !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
	empty := put(t, s, nil)
	if b, err := s.Bytes(empty, 0); len(b) != 0 || err != nil {
		t.Error(b, err)
	}
	if all, err := s.Blobs(); len(all) != 2 || err != nil {
		t.Error(all, err)
	}
	for range 2 {
		if err := s.Remove(want); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Size(want); !errors.Is(err, api.NotFound) || s.Has(want) {
		t.Error(err)
	}
	if left := ingest(dir); len(left) != 0 {
		t.Error(left)
	}
}

func TestSHA512(t *testing.T) {
	s := Open(t.TempDir())
	d := digest.Digest("sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043") // of "hello"
	w, err := s.Writer(context.Background(), d, 5)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("hello"))
	if got, _, err := w.Commit(); got != d || err != nil {
		t.Fatal(got, err)
	}
	if b, err := s.Bytes(d, 5); string(b) != "hello" || err != nil {
		t.Error(b, err)
	}
}

func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir)
	d := put(t, s, bytes.Repeat([]byte("x"), 5000))
	path := filepath.Join(dir, "blobs/sha256", d.Encoded())
	for name, damage := range map[string]func() error{
		"changed": func() error {
			return os.WriteFile(path, append(bytes.Repeat([]byte("x"), 4999), 'y'), 0o600)
		},
		"shorter": func() error { return os.Truncate(path, 4000) },
		"longer":  func() error { return os.Truncate(path, 6000) },
		"empty":   func() error { return os.Truncate(path, 0) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		r, err := s.Reader(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), d.Encoded()) {
			t.Errorf("%s: Reader: %v", name, err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: a second look says %v", name, err)
		}
		r.Close()
		if _, err := s.Bytes(d, 1<<20); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: Bytes: %v", name, err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir)
	d := digest.FromString("hello")
	for name, c := range map[string]struct {
		want digest.Digest
		size int64
		text string
	}{
		"other bytes": {d, -1, "hallo"},
		"too short":   {d, 6, "hello"},
		"too long":    {d, 4, "hello"},
		"nothing":     {d, 5, ""},
		"only size":   {"", 4, "hello"},
	} {
		w, err := s.Writer(context.Background(), c.want, c.size)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(c.text))
		if _, _, err := w.Commit(); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := w.Commit(); err == nil {
			t.Errorf("%s: committed at the second try", name)
		}
		w.Abort()
	}
	ctx, cancel := context.WithCancel(context.Background())
	w, err := s.Writer(ctx, d, 5)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("hello"))
	cancel()
	if _, _, err := w.Commit(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w, err = s.Writer(context.Background(), "", -1)
	if err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("written after Abort")
	}
	if all, _ := s.Blobs(); len(all) != 0 {
		t.Error("visible:", all)
	}
	if left := ingest(dir); len(left) != 0 {
		t.Error("left:", left)
	}
}

func TestCheck(t *testing.T) {
	good := strings.Repeat("a", 64)
	for _, d := range []digest.Digest{"sha256:" + digest.Digest(good), "sha512:" + digest.Digest(good+good)} {
		if err := Check(d); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "sha256", "sha256:", good, "sha256:" + good[1:], "sha256:" + good + "a", "sha256:" + strings.ToUpper(good), "sha384:" + good,
		"sha256:../../../../../../../../../../../../../../../../../../../etc/passwd", "sha256:" + good[:63] + "g", "sha512:" + good, "../x:" + good, "sha256:" + good[:62] + "\x00a"} {
		d := digest.Digest(bad)
		s := Open(filepath.Join(t.TempDir(), "content"))
		_, rerr := s.Reader(d)
		_, werr := s.Writer(context.Background(), d, -1)
		for _, err := range []error{Check(d), rerr, s.Remove(d)} {
			if !errors.Is(err, api.InvalidArgument) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if bad != "" && !errors.Is(werr, api.InvalidArgument) || s.Has(d) {
			t.Errorf("%q: %v", bad, werr)
		}
	}
}

// A killed writer's file is swept by the next process that writes, a living one's is not.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	put(t, Open(dir), []byte("x"))
	cmd := command(dir, "write", "")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	put(t, Open(dir), []byte("y"))
	if left := ingest(dir); len(left) != 1 {
		t.Error("beside a living writer:", left)
	}
	cmd.Process.Kill()
	_ = cmd.Wait()
	put(t, Open(dir), []byte("z"))
	if left := ingest(dir); len(left) != 0 {
		t.Error("after its death:", left)
	}
}

// TestSweepFollowsNoLink: a link that was on its way to its place, to a layer that is not there yet, makes no layer of nothing.
func TestSweepFollowsNoLink(t *testing.T) {
	root := t.TempDir()
	s := Open(filepath.Join(root, "content"))
	put(t, s, []byte("x"))
	layer := filepath.Join(root, "layer")
	if err := os.Symlink("../../layer", filepath.Join(root, "content/ingest/link")); err != nil { // as Derive leaves it that is killed
		t.Fatal(err)
	}
	put(t, Open(filepath.Join(root, "content")), []byte("y"))
	if _, err := os.Lstat(layer); !os.IsNotExist(err) {
		t.Errorf("%s was made: %v", layer, err)
	}
	if left := ingest(filepath.Join(root, "content")); len(left) != 1 { // young: somebody may be about to put it in its place
		t.Errorf("%q", left)
	}
	old := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, "content/ingest/link"), old, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	put(t, Open(filepath.Join(root, "content")), []byte("z"))
	if left := ingest(filepath.Join(root, "content")); len(left) != 0 {
		t.Errorf("%q", left)
	}
}

func TestRefs(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir)
	if refs, err := s.Refs(); len(refs) != 0 || err != nil {
		t.Error(refs, err)
	}
	if err := s.RemoveRef("none"); err != nil {
		t.Error(err)
	}
	one := imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: digest.FromString("1"), Size: 1, Annotations: map[string]string{"k": "v"}}
	two := imagespec.Descriptor{MediaType: imagespec.MediaTypeImageIndex, Digest: digest.FromString("2"), Size: 2}
	for _, c := range []struct {
		name string
		d    imagespec.Descriptor
	}{{"a", two}, {"b", two}, {"a", one}} {
		if err := s.SetRef(c.name, c.d); err != nil {
			t.Fatal(err)
		}
	}
	if len(one.Annotations) != 1 {
		t.Error("the caller's map was changed")
	}
	if err := s.RemoveRef("b"); err != nil {
		t.Fatal(err)
	}
	refs, err := s.Refs()
	if err != nil || len(refs) != 1 || refs[0].Digest != one.Digest || refs[0].Annotations[imagespec.AnnotationRefName] != "a" || refs[0].Annotations["k"] != "v" {
		t.Error(refs, err)
	}
	if err := s.SetRef("", one); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
	if err := s.SetRef("x", imagespec.Descriptor{Digest: "sha256:../x"}); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
	for _, bad := range []string{"", "{", `{"manifests":[{"digest":"sha256:../../x"}]}`} {
		if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Refs(); !errors.Is(err, api.Corrupt) {
			t.Errorf("%q: %v", bad, err)
		}
		if err := s.SetRef("x", one); !errors.Is(err, api.Corrupt) {
			t.Errorf("%q: overwritten: %v", bad, err)
		}
	}
}

func TestRefsOfManyProcesses(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if err := command(dir, "refs", fmt.Sprint("p", i)).Run(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	refs, err := Open(dir).Refs()
	if len(refs) != 4*19 || err != nil {
		t.Errorf("%d references, %v", len(refs), err)
	}
}

func TestFoldersArePrivate(t *testing.T) {
	for _, mask := range []int{0, 0o077} {
		dir := filepath.Join(t.TempDir(), "root", "content")
		old := unix.Umask(mask)
		d := put(t, Open(dir), []byte("x"))
		unix.Umask(old)
		for path, want := range map[string]os.FileMode{"..": 0o700, ".": 0o700, "blobs": 0o700, "blobs/sha256": 0o700, "ingest": 0o700, "oci-layout": 0o600, "blobs/sha256/" + d.Encoded(): 0o600} {
			if fi, err := os.Lstat(filepath.Join(dir, path)); err != nil || fi.Mode().Perm() != want {
				t.Errorf("umask %o: %s: %v %v", mask, path, fi.Mode(), err)
			}
		}
	}
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends here, and with it the namespace
		if err := errors.Join(machine.OwnMounts(), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")); err != nil {
			t.Error(err)
			return
		}
		s := Open(dir)
		w, err := s.Writer(context.Background(), "", 2<<20)
		if err != nil {
			t.Error(err)
			return
		}
		_, werr := w.Write(make([]byte, 2<<20))
		_, _, cerr := w.Commit()
		for _, err := range []error{werr, cerr} {
			if !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "2097152") {
				t.Error(err)
			}
		}
		if left := ingest(dir); len(left) != 0 {
			t.Error(left)
		}
		put(t, s, make([]byte, 1<<19)) // the space is free again
	}()
	<-done
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":-1,"annotations":null}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"x"}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		index, err := decodeIndex(b)
		if err != nil {
			return
		}
		for _, m := range index.Manifests {
			if Check(m.Digest) != nil {
				t.Error(m.Digest)
			}
		}
	})
}
