package transfer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image/imagetest"
	"brig/internal/store/erofs"
)

// mixed is an archive with a file of each kind that a table of contents tells apart, and one of several chunks.
func mixed(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	big := noise(3 << 20)
	for _, f := range []struct {
		h    tar.Header
		data []byte
	}{
		{h: tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}},
		{tar.Header{Typeflag: tar.TypeReg, Name: "d/big", Mode: 0o4755, Uid: 7, Gid: 8}, big},
		{h: tar.Header{Typeflag: tar.TypeReg, Name: "d/empty", Mode: 0o600}},
		{tar.Header{Typeflag: tar.TypeReg, Name: "d/small", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b\x00c"}}, []byte("small")},
		{h: tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/small"}},
		{h: tar.Header{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: "d/big"}},
		{h: tar.Header{Typeflag: tar.TypeReg, Name: ".wh.gone"}},
	} {
		f.h.Size = int64(len(f.data))
		if err := w.WriteHeader(&f.h); err != nil {
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

// TestTableOfContents: layers with a table of contents are ordinary layers. They come in whole, as folder and as image, and go out, by save and by push, with the
// same digests, and the manifest with its annotations.
func TestTableOfContents(t *testing.T) {
	for name, pack := range map[string]func([]byte, int64) ([]byte, map[string]string, error){"eStargz": imagetest.EStargz, "zstd:chunked": imagetest.Chunked} {
		for _, kept := range []string{layersAsFolders, layersAsImages} {
			t.Run(name+" as "+kept, func(t *testing.T) {
				t.Setenv(layersEnv, kept)
				w := newWorld(t)
				if kept == layersAsImages && (!w.tr.packs(erofs.Deflate) || !w.tr.packs(erofs.LZ4)) {
					t.Skip("this kernel mounts no such EROFS image from a file, or does not read it right")
				}
				blob, annotations, err := pack(mixed(t), 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				archive, err := imagetest.Unpacked(blob)
				if err != nil {
					t.Fatal(err)
				}
				p := w.reg.OCI(func([]byte) []byte { return blob }, archive)
				p.Manifest.Layers[0].Annotations = annotations
				target := w.reg.PutImage(p, "1")
				reply, err := w.pull("x:1")
				if err != nil {
					t.Fatal(err)
				}
				rec := reply.Images[0]
				diffID := digest.FromBytes(archive)
				if rec.Target.Digest != target.Digest || rec.Layers[0].DiffID != diffID.String() || rec.Layers[0].Size < 3<<20 {
					t.Errorf("%+v", rec)
				}
				packed := kept == layersAsImages
				if _, err := os.Stat(filepath.Join(w.root, "snapshot/layer", diffID.Encoded(), "image")); (err == nil) != packed {
					t.Errorf("is an image: %v, want %v", err == nil, packed)
				}
				if !packed && w.file(diffID.String(), "hard") != "small" {
					t.Error("contents")
				}
				if _, _, _, err := w.do(api.TransferRequest{Op: "check"}); err != nil {
					t.Error(err)
				}

				out := filepath.Join(t.TempDir(), "out")
				if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{rec.Name}, File: out, Format: "oci-dir"}); err != nil {
					t.Fatal(err)
				}
				g := w.writable()
				to := g.Host + "/team/x:1"
				w.tag(rec, to)
				if _, _, err := w.push(to); err != nil {
					t.Fatal(err)
				}
				repo := g.Repo("team/x")
				for _, d := range []digest.Digest{target.Digest, p.Manifest.Layers[0].Digest} {
					want := w.reg.Blobs[d]
					if got, err := os.ReadFile(filepath.Join(out, "blobs/sha256", d.Encoded())); err != nil || !bytes.Equal(got, want) {
						t.Errorf("saved: %s: %d bytes of %d, %v", d, len(got), len(want), err)
					}
				}
				if _, ok := repo.Blobs[p.Manifest.Layers[0].Digest]; !ok || repo.Tags["1"] != target.Digest {
					t.Errorf("pushed: %v %v", ok, repo.Tags)
				}
			})
		}
	}
}
