package lazy

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/image/imagetest"
	"brig/internal/store/erofs"
	"brig/internal/store/snapshot"
)

var ctx = context.Background()

// file is an entry of an archive.
type file struct {
	tar.Header
	data []byte
}

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		f.Size = int64(len(f.data))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

var formats = map[string]func([]byte, int64) ([]byte, map[string]string, error){"eStargz": imagetest.EStargz, "zstd:chunked": imagetest.Chunked}

// layer is a blob of one of the formats.
type layer struct {
	blob []byte
	desc imagespec.Descriptor
	asks atomic.Int64
	got  atomic.Int64 // bytes
	dead atomic.Bool
	hook func(b []byte, offset int64) []byte
}

func newLayer(t testing.TB, format string, chunk int64, files ...file) *layer {
	t.Helper()
	blob, annotations, err := formats[format](archive(t, files...), chunk)
	if err != nil {
		t.Fatal(err)
	}
	kind := imagespec.MediaTypeImageLayerGzip
	if blob[0] == 0x28 {
		kind = imagespec.MediaTypeImageLayerZstd
	}
	return &layer{blob: blob, desc: imagespec.Descriptor{MediaType: kind, Digest: digest.FromBytes(blob), Size: int64(len(blob)), Annotations: annotations}}
}

func (l *layer) source(_ context.Context, offset, length int64) (io.ReadCloser, error) {
	l.asks.Add(1)
	if l.dead.Load() {
		return nil, api.Errorf(api.Unavailable, "the registry is gone")
	}
	l.got.Add(length)
	b := bytes.Clone(l.blob[offset : offset+length])
	if l.hook != nil {
		b = l.hook(b, offset)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// image makes an image, whose failures are counted.
func (l *layer) image(t testing.TB) (*Image, *atomic.Int64) {
	t.Helper()
	table, err := Fetch(ctx, l.source, l.desc)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	failures := new(atomic.Int64)
	m, err := NewImage("layer", table, l.source, f, func(int64) error { return nil }, func(error) { failures.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	return m, failures
}

// mounted serves images until the test ends.
func mounted(t *testing.T, images ...*Image) (*Server, *snapshot.Store, []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	store := snapshot.Open(t.TempDir()).In(t.TempDir())
	if !store.Packs(erofs.Deflate) {
		t.Skip("this kernel mounts no EROFS image from a file, or does not read it right")
	}
	s, paths, err := Mount(store, images)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, store, paths
}

// many are files of each kind, one of several chunks, and some beside it.
func many() ([]file, []byte) {
	big := noise(3<<20 + 12345)
	files := []file{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o750, Uid: 5, Gid: 6}},
		{tar.Header{Typeflag: tar.TypeReg, Name: "d/big", Mode: 0o4755, Uid: 7, Gid: 8, ModTime: time.Unix(1e9, 0)}, big},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "d/empty", Mode: 0o600}},
		{tar.Header{Typeflag: tar.TypeReg, Name: "d/small", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b\x00c"}}, []byte("small")},
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/small"}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: "d/big"}},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: ".wh.gone"}},
	}
	for i := range 300 {
		files = append(files, file{tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("many/%d", i), Mode: 0o644}, noise(10_000)})
	}
	return files, big
}

// TestRead: the kernel sees what the archive holds, only what is read is fetched, and each once, by any number of readers at a time.
func TestRead(t *testing.T) {
	for format := range formats {
		t.Run(format, func(t *testing.T) {
			files, big := many()
			l := newLayer(t, format, 1<<20, files...)
			m, failures := l.image(t)
			_, _, paths := mounted(t, m)
			at := func(name string) string { return filepath.Join(paths[0], name) }
			table := l.got.Load()

			if b, err := os.ReadFile(at("d/small")); err != nil || string(b) != "small" {
				t.Errorf("%q %v", b, err)
			}
			if n := l.got.Load() - table; n > window+1<<20+64<<10 {
				t.Errorf("%d bytes were fetched for a small file", n)
			}
			var st unix.Stat_t
			if err := unix.Lstat(at("d/big"), &st); err != nil || st.Mode != unix.S_IFREG|0o4755 || st.Uid != 7 || st.Gid != 8 || st.Size != int64(len(big)) || st.Mtim.Sec != 1e9 {
				t.Errorf("%+v %v", st, err)
			}
			if err := unix.Lstat(at("hard"), &st); err != nil || st.Nlink != 2 {
				t.Errorf("%+v %v", st, err)
			}
			if err := unix.Lstat(at("gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				t.Errorf("%+v %v", st, err)
			}
			if to, err := os.Readlink(at("soft")); err != nil || to != "d/big" {
				t.Errorf("%q %v", to, err)
			}
			value := make([]byte, 8)
			if n, err := unix.Getxattr(at("hard"), "user.a", value); err != nil || string(value[:n]) != "b\x00c" {
				t.Errorf("%q %v", value, err)
			}
			if b, err := os.ReadFile(at("d/empty")); err != nil || len(b) > 0 {
				t.Errorf("%q %v", b, err)
			}
			var g sync.WaitGroup
			for range 8 {
				g.Go(func() {
					for _, f := range files {
						if f.Typeflag == tar.TypeReg && !strings.HasPrefix(f.Name, ".wh.") {
							if b, err := os.ReadFile(at(f.Name)); err != nil || !bytes.Equal(b, f.data) {
								t.Errorf("%s: %d bytes, %v", f.Name, len(b), err)
							}
						}
					}
				})
			}
			g.Wait()
			if n := l.got.Load() - table; n > int64(len(l.blob)) || failures.Load() > 0 {
				t.Errorf("%d bytes of %d were fetched, %d failures", n, len(l.blob), failures.Load())
			}
		})
	}
}

// TestSourceDies: reads fail when the source does, and go on when it is back.
func TestSourceDies(t *testing.T) {
	files, big := many()
	l := newLayer(t, "eStargz", 1<<20, files...)
	m, failures := l.image(t)
	_, _, paths := mounted(t, m)
	l.dead.Store(true)
	if _, err := os.ReadFile(filepath.Join(paths[0], "d/big")); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	asks := l.asks.Load()
	if _, err := os.ReadFile(filepath.Join(paths[0], "many/299")); !errors.Is(err, syscall.EIO) || l.asks.Load() != asks {
		t.Errorf("%v, asked %d times: not left alone", err, l.asks.Load()-asks)
	}
	if failures.Load() == 0 {
		t.Error("nobody was told")
	}
	l.dead.Store(false)
	m.mu.Lock()
	m.down = time.Time{}
	m.mu.Unlock()
	if b, err := os.ReadFile(filepath.Join(paths[0], "d/big")); err != nil || !bytes.Equal(b, big) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestWrongBytes: bytes that the table does not vouch for are asked for once more, and never read.
func TestWrongBytes(t *testing.T) {
	for format := range formats {
		files, big := many()
		l := newLayer(t, format, 1<<20, files...)
		m, _ := l.image(t)
		_, _, paths := mounted(t, m)
		l.hook = func(b []byte, _ int64) []byte {
			b[len(b)/2] ^= 1
			return b
		}
		if _, err := os.ReadFile(filepath.Join(paths[0], "d/big")); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", format, err)
		}
		m.mu.Lock()
		m.down = time.Time{}
		m.mu.Unlock()
		var once atomic.Bool
		l.hook = func(b []byte, _ int64) []byte {
			if !once.Swap(true) {
				b[len(b)/2] ^= 1
			}
			return b
		}
		if b, err := os.ReadFile(filepath.Join(paths[0], "d/big")); err != nil || !bytes.Equal(b, big) {
			t.Errorf("%s: %d bytes, %v", format, len(b), err)
		}
	}
}

// TestLife: the server ends with the last who uses the mounts, not before, and what a dead one leaves is swept.
func TestLife(t *testing.T) {
	files, _ := many()
	l := newLayer(t, "eStargz", 1<<20, files...)
	m, _ := l.image(t)
	s, store, paths := mounted(t, m)
	inside, err := os.Open(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	store.SweepServed() // it lives
	if _, err := os.Stat(filepath.Join(paths[0], "d")); err != nil {
		t.Error(err)
	}
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(paths[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	select {
	case <-s.Ended():
		t.Error("it ended while the mount was in use")
	case <-time.After(200 * time.Millisecond):
	}
	fd, err := unix.Openat(int(inside.Fd()), "d/small", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != "small" {
		t.Errorf("%q %v", b, err)
	}
	unix.Close(fd)
	inside.Close()
	select {
	case <-s.Ended():
	case <-time.After(10 * time.Second):
		t.Error("it goes on without a user")
	}
}

// hostile is a table with one entry bent.
func TestHostileTables(t *testing.T) {
	reg := func(over map[string]any) []map[string]any {
		e := map[string]any{"name": "f", "type": "reg", "size": 100, "offset": 0, "chunkDigest": digest.FromString("x").String()}
		maps.Copy(e, over)
		return []map[string]any{e}
	}
	sum := digest.FromString("x").String()
	for name, c := range map[string]struct {
		entries []map[string]any
		kind    api.Kind
	}{
		"a path with dots":            {reg(map[string]any{"name": "../../etc/passwd"}), api.Corrupt},
		"an absolute link to nothing": {[]map[string]any{{"name": "l", "type": "hardlink", "linkName": "/nowhere"}}, api.Corrupt},
		"a cycle of hard links":       {[]map[string]any{{"name": "a", "type": "hardlink", "linkName": "b"}, {"name": "b", "type": "hardlink", "linkName": "a"}}, api.Corrupt},
		"a hard link to a folder":     {[]map[string]any{{"name": "d", "type": "dir"}, {"name": "l", "type": "hardlink", "linkName": "d"}}, api.Corrupt},
		"a folder below a file":       {append(reg(nil), map[string]any{"name": "f/g", "type": "dir"}), api.Corrupt},
		"an unknown type":             {[]map[string]any{{"name": "s", "type": "socket"}}, api.Corrupt},
		"a stray chunk":               {[]map[string]any{{"name": "f", "type": "chunk", "chunkSize": 5}}, api.Corrupt},
		"overlay's own attribute":     {[]map[string]any{{"name": "d", "type": "dir", "xattrs": map[string][]byte{"trusted.overlay.redirect": []byte("/etc")}}}, api.Corrupt},
		"a negative size":             {reg(map[string]any{"size": -1}), api.Unsupported},
		"a huge size":                 {reg(map[string]any{"size": int64(1) << 60}), api.Unsupported},
		"sizes that overflow":         {append(reg(map[string]any{"size": int64(200) << 30, "chunkSize": int64(200) << 30}), reg(map[string]any{"name": "g", "size": int64(math.MaxInt64)})...), api.Unsupported},
		"a huge chunk":                {reg(map[string]any{"size": maxChunk + 1}), api.Unsupported},
		"a chunk without a digest":    {reg(map[string]any{"chunkDigest": ""}), api.Unsupported},
		"a digest that is none":       {reg(map[string]any{"chunkDigest": "sha256:../../x"}), api.Corrupt},
		"an offset before the blob":   {reg(map[string]any{"offset": -5}), api.Corrupt},
		"an offset behind the chunks": {reg(map[string]any{"offset": 1 << 40}), api.Corrupt},
		"an end before the offset":    {reg(map[string]any{"offset": 50, "endOffset": 20}), api.Corrupt},
		"an end behind the chunks":    {reg(map[string]any{"endOffset": int64(1) << 62}), api.Corrupt},
		"a hole between chunks": {append(reg(map[string]any{"chunkSize": 40}),
			map[string]any{"name": "f", "type": "chunk", "chunkOffset": 50, "chunkSize": 50, "offset": 60, "chunkDigest": sum}), api.Corrupt},
		"chunks that overlap": {append(reg(map[string]any{"chunkSize": 60}),
			map[string]any{"name": "f", "type": "chunk", "chunkOffset": 50, "chunkSize": 50, "offset": 60, "chunkDigest": sum}), api.Corrupt},
		"chunks of another file": {append(reg(map[string]any{"chunkSize": 60}),
			map[string]any{"name": "g", "type": "chunk", "chunkOffset": 60, "chunkSize": 40, "offset": 60, "chunkDigest": sum}), api.Corrupt},
		"more in chunks than in the file": {append(reg(map[string]any{"chunkSize": 60}),
			map[string]any{"name": "f", "type": "chunk", "chunkOffset": 60, "chunkSize": 50, "offset": 60, "chunkDigest": sum}), api.Corrupt},
		"a chunk within a stream": {reg(map[string]any{"innerOffset": 5}), api.Unsupported},
		"a kind of chunk":         {reg(map[string]any{"chunkType": "magic"}), api.Unsupported},
		"too many entries":        {make([]map[string]any, maxEntries+1), api.Unsupported},
	} {
		plain, err := json.Marshal(map[string]any{"version": 1, "entries": c.entries})
		if err != nil {
			t.Fatal(err)
		}
		if err := new(Table).parse(ctx, plain, 1000); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %s", name, err, c.kind)
		}
	}
	for _, plain := range []string{"", "{", "[]", `{"version":2}`, `{"version":1,"entries":[{"name":"a","type":"dir","modtime":"yesterday"}]}`, `{"version":1,"entries":{}}`} {
		if err := new(Table).parse(ctx, []byte(plain), 1000); err == nil {
			t.Errorf("%q is accepted", plain)
		}
	}
}

// TestHostileBlobs: a table is what its annotation says, or is none.
func TestHostileBlobs(t *testing.T) {
	for format := range formats {
		l := newLayer(t, format, 1<<20, file{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, noise(1000)})
		for name, bend := range map[string]func(*imagespec.Descriptor){
			"another digest": func(d *imagespec.Descriptor) {
				for k := range d.Annotations {
					if k != imagetest.ChunkedPosition {
						d.Annotations[k] = digest.FromString("other").String()
					}
				}
			},
			"no digest": func(d *imagespec.Descriptor) {
				for k := range d.Annotations {
					d.Annotations[k] = "sha256:.."
				}
			},
			"another place": func(d *imagespec.Descriptor) {
				d.Size -= 5
				if d.Annotations[imagetest.ChunkedPosition] != "" {
					d.Annotations[imagetest.ChunkedPosition] = "9:50:60:1"
				}
			},
			"outside": func(d *imagespec.Descriptor) {
				d.Size = min(d.Size, 40)
				if d.Annotations[imagetest.ChunkedPosition] != "" {
					d.Annotations[imagetest.ChunkedPosition] = "30:50:60:1"
				}
			},
		} {
			d := l.desc
			d.Annotations = maps.Clone(d.Annotations)
			bend(&d)
			if _, err := Fetch(ctx, l.source, d); !errors.Is(err, api.Corrupt) && !errors.Is(err, api.Unsupported) {
				t.Errorf("%s, %s: %v", format, name, err)
			}
		}
	}
}

// FuzzTable: no table makes it panic, and what it accepts can be laid out.
func FuzzTable(f *testing.F) {
	f.Add([]byte(`{"version":1,"entries":[{"name":"d/","type":"dir"},{"name":"d/f","type":"reg","size":5,"offset":0,"chunkDigest":"` + digest.FromString("x").String() + `"}]}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		table := new(Table)
		if table.parse(ctx, plain, 1000) != nil || table.Bytes > 1<<30 {
			return
		}
		file, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		m, err := NewImage("", table, nil, file, func(int64) error { return nil }, nil)
		if err != nil {
			return
		}
		for i := range m.chunks {
			if c := &m.chunks[i]; c.at+c.size > m.size || i > 0 && c.at < m.chunks[i-1].at+m.chunks[i-1].size {
				t.Errorf("chunk %+v of %d bytes", c, m.size)
			}
		}
	})
}
