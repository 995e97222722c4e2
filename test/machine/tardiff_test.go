package machine

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// writeTar makes an archive of these headers; a regular file holds its own link name.
func writeTar(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, h := range headers {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname = h.Linkname, ""
		}
		h.Size, h.ModTime = int64(len(text)), time.Unix(1, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTarDiff(t *testing.T) {
	dir := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeDir, Name: "./" + name + "/", Mode: 0o755}
	}
	file := func(name, text string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Linkname: text, Mode: 0o644}
	}
	below := writeTar(t, dir(""), dir("a"), file("a/same", "1"), file("a/other", "1"), file("a/gone", "1"), dir("b"), file("b/linked", "1"), dir("c"), file("c/in", "1"))
	whole := writeTar(t, dir(""), dir("a"), file("a/same", "1"), file("a/other", "2"), dir("b"), file("b/linked", "1"),
		tar.Header{Typeflag: tar.TypeLink, Name: "./b/new", Linkname: "./b/linked"})
	out := filepath.Join(t.TempDir(), "out.tar")
	if err := tarDiff(out, whole, below); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got = append(got, h.Name+" "+h.Linkname+string(text))
	}
	slices.Sort(got)
	want := []string{".wh.c ", "a/ ", "a/.wh.gone ", "a/other 2", "b/ ", "b/linked 1", "b/new b/linked"}
	if !slices.Equal(got, want) {
		t.Errorf("the layer has %q, want %q", got, want)
	}
}
