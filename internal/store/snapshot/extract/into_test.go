package extract

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
)

func plainArchive(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Format = tar.FormatPAX
		content := h.Name
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte(content))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func into(t *testing.T, dir string, o Options, entries ...tar.Header) error {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = Into(t.Context(), fd, plainArchive(t, entries...), o)
	return err
}

// TestInto holds what is different where the archive is no layer.
func TestInto(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"folder", "kept"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := into(t, dir, Options{Mine: true},
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o555}, tar.Header{Name: ".wh.x", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 12345},
		tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o640}, tar.Header{Name: "folder/", Typeflag: tar.TypeDir, Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, ".wh.x": 0o644, "file": 0o640, "folder": 0o755} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || name != "." && fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "file")); string(b) != "file" {
		t.Errorf("file holds %q", b)
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(dir, ".wh.x"), &st); int(st.Uid) != os.Geteuid() {
		t.Errorf("owner %d", st.Uid)
	}
	for want, h := range map[string]tar.Header{
		`cannot overwrite directory "kept"`:     {Name: "kept", Typeflag: tar.TypeReg, Mode: 0o644},
		`cannot overwrite non-directory "file"`: {Name: "file/", Typeflag: tar.TypeDir, Mode: 0o755},
	} {
		if err := into(t, dir, Options{}, h); !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	outside := filepath.Join(t.TempDir(), "outside")
	err = into(t, dir, Options{}, tar.Header{Name: "lead", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}, tar.Header{Name: "lead/outside", Typeflag: tar.TypeReg})
	if _, serr := os.Lstat(outside); serr == nil {
		t.Errorf("a link of the archive led out: %v", err)
	}
}
