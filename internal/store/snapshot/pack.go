package snapshot

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/store/packed"
	"brig/internal/store/redeflate"
	"brig/internal/store/snapshot/extract"
	"brig/internal/store/snapshot/tree"

	"github.com/opencontainers/go-digest"
)

// ErrUnfit is the error of a layer that Pack cannot keep, though it may be a sound one: Unpack takes it.
var ErrUnfit = errors.New("the layer cannot be packed")

// Pack brings a layer in as an EROFS image, from its blob: a gzip stream of blobSize bytes with the digest blob, a sha256. Blob and image are kept as
// one. announce is called when all is verified, before the layer can be seen, with its folder, and must make it durable that the blob is there. Pack
// returns the bytes of file content.
//
// The caller holds the layer's lock (see Lock) and has found the layer missing. Errors are those of Unpack, and ErrUnfit.
func (s *Store) Pack(ctx context.Context, diffID, blob digest.Digest, blobSize int64, stream io.Reader, announce func(dir string) error) (size int64, err error) {
	hexa, err := checkDiffID(string(diffID))
	if err != nil {
		return 0, err
	}
	defer func() { err = s.name(err, diffID) }()
	tmp := s.unpacking(hexa)
	if err := tree.Remove(tmp); err != nil {
		return 0, err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			tree.Remove(tmp)
		}
	}()
	w, err := packed.Create(tmp)
	if err != nil {
		return 0, err
	}
	defer w.Close()

	compressed := newAhead(ctx, stream)
	defer compressed.stop()
	if size, err = s.pack(ctx, w, diffID, blob, blobSize, compressed); err != nil {
		return 0, err
	}
	if err := atomicfile.SyncDir(tmp); err != nil {
		return 0, err
	}
	if err := announce(s.layer(hexa)); err != nil {
		return 0, err
	}
	if err := os.Rename(tmp, s.layer(hexa)); err != nil {
		return 0, err
	}
	return size, atomicfile.SyncDir(s.dir + "/layer")
}

// pack fills the files and verifies both digests.
func (s *Store) pack(ctx context.Context, w *packed.Writer, diffID, blob digest.Digest, blobSize int64, compressed *ahead) (int64, error) {
	plain := newAhead(ctx, redeflate.NewReader(compressed, w.Cluster))
	root, done, err := extract.Nodes(ctx, plain)
	if err == nil {
		err = plain.verify(diffID, maxPadding)
	}
	plain.stop()
	if err != nil && !errors.Is(err, api.Corrupt) {
		if errors.Is(err, redeflate.ErrUnfit) || errors.Is(err, extract.ErrSparse) {
			return 0, ErrUnfit
		}
		return 0, err
	}
	// What is wrong with the blob itself explains why it cannot be unpacked.
	if berr := compressed.verifyBlob(blob, blobSize); berr != nil {
		return 0, berr
	}
	if err != nil {
		return 0, err
	}
	var id [16]byte
	if _, err := hex.Decode(id[:], []byte(diffID.Encoded()[:32])); err != nil {
		return 0, err
	}
	return done.Bytes, w.Finish(root, done.Bytes, blob, blobSize, id)
}
