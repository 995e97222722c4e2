package snapshot

import (
	"archive/tar"
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
	"testing"
	"testing/iotest"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/test/machine"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The test binary is also the process that unpacks beside the test: with childEnv set to a store's folder it unpacks standard input.
const childEnv = "BRIG_TEST_UNPACK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if _, err := Open(dir).Unpack(context.Background(), digest.Digest(os.Args[1]), os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a process that unpacks the layer from r.
func child(dir string, d digest.Digest, r io.Reader) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", string(d))
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	return cmd
}

// layer makes an archive of files, with their names as content, and its diff ID.
func layer(t testing.TB, names ...string) (digest.Digest, []byte) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(name)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, name)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(b.Bytes()), b.Bytes()
}

func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes need root")
	}
}

func unpack(t testing.TB, s *Store, names ...string) string {
	t.Helper()
	d, b := layer(t, names...)
	if _, err := s.Unpack(context.Background(), d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return string(d)
}

// noDebris fails when something is left in unpack/.
func noDebris(t *testing.T, dir string) {
	t.Helper()
	if names, _ := readNames(filepath.Join(dir, "unpack")); len(names) != 0 {
		t.Errorf("left in unpack: %v", names)
	}
}

func TestUnpack(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "snapshot")
	s := Open(dir)
	d, b := layer(t, "a/x", "b")
	if s.Has(d) {
		t.Error("there before")
	}
	for range 2 { // the second time it is there already
		in := iotest.OneByteReader(bytes.NewReader(b))
		size, err := s.Unpack(context.Background(), d, in)
		if err != nil || size != 4 {
			t.Fatal(size, err)
		}
		if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Error("the stream was not read to its end")
		}
	}
	noDebris(t, dir)
	got, err := os.ReadFile(filepath.Join(dir, "layer", d.Encoded(), "fs/a/x"))
	if string(got) != "a/x" || err != nil {
		t.Error(string(got), err)
	}
	if n, err := s.LayerSize(string(d)); n != 4 || err != nil {
		t.Error(n, err)
	}
	if all, err := s.Layers(); len(all) != 1 || all[0] != d || err != nil {
		t.Error(all, err)
	}
	for range 2 {
		if err := s.RemoveLayer(string(d)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.LayerSize(string(d)); s.Has(d) || !errors.Is(err, api.NotFound) {
		t.Error("not removed:", err)
	}
	noDebris(t, dir)
}

func TestUnpackRefuses(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	s := Open(dir)
	d, b := layer(t, "a")
	other, _ := layer(t, "b")
	_, evil := layer(t, "../x")
	cut := errors.New("the line is cut")
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		d    digest.Digest
		in   io.Reader
		kind error
		says string
	}{
		"other bytes": {t.Context(), other, bytes.NewReader(b), api.Corrupt, d.Encoded()},
		"more bytes":  {t.Context(), d, io.MultiReader(bytes.NewReader(b), strings.NewReader("more")), api.Corrupt, "digest"},
		"endless":     {t.Context(), d, io.MultiReader(bytes.NewReader(b), endless{}), api.Corrupt, "follow the end"},
		"fewer bytes": {t.Context(), d, bytes.NewReader(b[:600]), api.Corrupt, d.Encoded()},
		"no archive":  {t.Context(), digest.FromString("hello"), strings.NewReader(strings.Repeat("hello", 1000)), api.Corrupt, "archive"},
		"hostile":     {t.Context(), digest.FromBytes(evil), bytes.NewReader(evil), api.Corrupt, "../x"},
		"cut":         {t.Context(), d, io.MultiReader(bytes.NewReader(b[:600]), iotest.ErrReader(cut)), cut, "cut"},
		"cut gzip":    {t.Context(), d, io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF, "EOF"},
		"cancelled":   {cancelled, d, bytes.NewReader(b), context.Canceled, "cancel"},
		"no digest":   {t.Context(), "../../x", bytes.NewReader(b), api.InvalidArgument, "diff ID"},
		"sha512":      {t.Context(), digest.Digest("sha512:" + strings.Repeat("a", 128)), bytes.NewReader(b), api.InvalidArgument, "diff ID"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Unpack(c.ctx, c.d, c.in)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			noDebris(t, dir)
			if all, _ := s.Layers(); len(all) != 0 {
				t.Errorf("visible: %v", all)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A process killed in the middle leaves nothing that can be seen, and the next one clears what it left.
func TestKilledUnpackIsSwept(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	s := Open(dir)
	d, b := layer(t, "a", "b/c", "d")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := child(dir, d, r)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b[:1100]); err != nil {
		t.Fatal(err)
	}
	// The process reads ahead in large pieces, so it may not have begun with files; its folder is there.
	tmp := filepath.Join(dir, "unpack", d.Encoded())
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Lstat(tmp); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the process does not begin")
		}
	}
	// While it lives nobody touches it, and who wants the same layer waits.
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	if _, err := s.Unpack(ctx, d, bytes.NewReader(b)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("did not wait:", err)
	}
	if _, err := os.Lstat(tmp); err != nil {
		t.Error("swept while it lives:", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := os.Lstat(tmp); err != nil {
		t.Fatal(err)
	}
	if s.Has(d) {
		t.Error("half a layer is visible")
	}
	if err := os.WriteFile(filepath.Join(tmp, "fs/debris"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unpack(t, s, "another")
	noDebris(t, dir)
	unpack(t, s, "a", "b/c", "d")
	if _, err := os.Lstat(filepath.Join(s.layer(d.Encoded()), "fs/debris")); err == nil {
		t.Error("the layer has what the dead process left")
	}
}

func TestProcessesUnpackOnce(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("d%d/f%d", i%7, i))
	}
	d, b := layer(t, names...)
	var cmds []*exec.Cmd
	for range 4 {
		cmd := child(dir, d, bytes.NewReader(b))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	noDebris(t, dir)
	got := 0
	filepath.WalkDir(filepath.Join(dir, "layer", d.Encoded(), "fs"), func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			got++
		}
		return err
	})
	if got != len(names) {
		t.Errorf("%d files", got)
	}
}

// onSmallDisk runs f with a file system of size bytes at a folder that only f's thread sees.
func onSmallDisk(t *testing.T, size string, f func(dir string)) {
	needRoot(t)
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends here, and with it the namespace
		if err := machine.OwnMounts(); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Error(err)
			return
		}
		f(dir)
	}()
	<-done
}

func TestFullDisk(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 4 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Size: 1 << 20, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write(make([]byte, 1<<20))
	}
	w.Close()
	d := digest.FromBytes(b.Bytes())
	onSmallDisk(t, "2m", func(dir string) {
		s := Open(dir)
		_, err := s.Unpack(context.Background(), d, bytes.NewReader(b.Bytes()))
		if !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), dir) {
			t.Error(err)
		}
		noDebris(t, dir)
		// Also when the space is taken while it unpacks: many small files take more than their bytes.
		var names []string
		for i := range 1000 {
			names = append(names, fmt.Sprint("f", i))
		}
		small, bytesOf := layer(t, names...)
		_, err = s.Unpack(context.Background(), small, bytes.NewReader(bytesOf))
		if !errors.Is(err, api.Exhausted) || !errors.Is(err, unix.ENOSPC) {
			t.Error(err)
		}
		noDebris(t, dir)
		if all, _ := s.Layers(); len(all) != 0 {
			t.Error(all)
		}
	})
}

func TestFoldersArePrivate(t *testing.T) {
	needRoot(t)
	for _, mask := range []int{0, 0o077} {
		dir := filepath.Join(t.TempDir(), "root", "snapshot")
		old := unix.Umask(mask)
		s := Open(dir)
		d := unpack(t, s, "a/b")
		_, err := s.Prepare("c", []string{d}, atomicfile.Durable)
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		hex := strings.TrimPrefix(d, "sha256:")
		for path, want := range map[string]os.FileMode{"..": 0o700, ".": 0o700, "layer": 0o700, "unpack": 0o700, "active": 0o700, "active/c": 0o700, "active/c/work": 0o700,
			"active/c/fs": 0o755, "layer/" + hex: 0o700, "layer/" + hex + "/fs": 0o755, "layer/" + hex + "/fs/a": 0o755} {
			fi, err := os.Lstat(filepath.Join(dir, path))
			if err != nil || fi.Mode().Perm() != want {
				t.Errorf("umask %o: %s has mode %v (%v)", mask, path, fi.Mode(), err)
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	_, b := layer(f, "a/b", ".wh.c", "../d")
	f.Add(b)
	f.Add(b[:700])
	f.Fuzz(func(t *testing.T, b []byte) {
		needRoot(t)
		dir := t.TempDir()
		s := Open(dir)
		d := digest.FromBytes(b)
		_, err := s.Unpack(context.Background(), d, bytes.NewReader(b))
		if s.Has(d) != (err == nil) {
			t.Error(err)
		}
		noDebris(t, dir)
	})
}
