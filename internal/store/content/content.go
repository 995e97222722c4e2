// Package content keeps blobs by their digest, as an OCI image layout that any OCI tool can read.
//
//	oci-layout            marker of the format
//	index.json            named images: descriptors with the annotation org.opencontainers.image.ref.name
//	index.json.lock       held while index.json changes
//	blobs/ALGORITHM/HEX   a blob, complete and verified
//	ingest/               blobs on their way in; each file is locked by its writer
//	derived/HEX           symbolic link to the folder of a packed layer (package packed), which gives the sha256 blob HEX
//
// The blob of a layer that is kept as an EROFS image is no file of its own: it is made of the image when it is read, bit for bit. To callers it is a blob
// like the others.
//
// A blob is hashed when it is written and again whenever it is read, so that what a caller uses is what the digest says, whatever
// happened to the disk in between. A blob appears by rename after its bytes are durable: it is whole or it is not there. Any number
// of processes may read, write and remove at a time. Two writers of one blob do not disturb each other; the later rename replaces
// equal bytes by equal bytes. What a dead writer left in ingest/ is swept by the next process that writes.
//
// Which blobs are still needed is the caller's knowledge; the store removes only what it is told to.
package content

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/store/packed"

	"github.com/opencontainers/go-digest"
)

// Store is a folder of blobs. It has no state of its own: any number of Stores may be open on one folder, in any number of processes.
type Store struct {
	dir   string
	sweep sync.Once
}

// Open names the folder. It does no I/O; the folder is made, 0700, by the first write.
func Open(dir string) *Store { return &Store{dir: dir} }

// Has reports whether the blob is in the store. A malformed digest is not.
func (s *Store) Has(d digest.Digest) bool {
	path, err := s.path(d)
	if err != nil {
		return false
	}
	if _, err = os.Lstat(path); err == nil {
		return true
	}
	_, err = os.Stat(s.derived(d))
	return err == nil
}

// HasFile reports whether the blob is in the store as a file of its own.
func (s *Store) HasFile(d digest.Digest) bool {
	path, err := s.path(d)
	if err != nil {
		return false
	}
	_, err = os.Lstat(path)
	return err == nil
}

// Derive makes it known, durably, that the packed layer in the folder dir gives the blob, a sha256; dir lies beside the store or is to come there.
func (s *Store) Derive(d digest.Digest, dir string) error {
	if _, err := s.path(d); err != nil {
		return err
	}
	link := s.derived(d)
	to, err := filepath.Rel(filepath.Dir(link), dir)
	if err != nil {
		return err
	}
	if old, err := os.Readlink(link); err == nil && old == to {
		return atomicfile.SyncDir(filepath.Dir(link))
	}
	if err := s.prepare(); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Dir(link), 0o700); err == nil {
		err = atomicfile.SyncDir(s.dir)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	tmp := filepath.Join(s.dir, "ingest", id.New())
	if err := os.Symlink(to, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, link); err != nil {
		os.Remove(tmp)
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(link))
}

// Layer returns the name of the folder of the packed layer that gives the blob: the digits of its diff ID.
func (s *Store) Layer(d digest.Digest) (string, bool) {
	if Check(d) != nil {
		return "", false
	}
	to, err := os.Readlink(s.derived(d))
	return filepath.Base(to), err == nil
}

// Size returns the blob's length in bytes.
func (s *Store) Size(d digest.Digest) (int64, error) {
	path, err := s.path(d)
	if err != nil {
		return 0, err
	}
	fi, err := os.Lstat(path)
	if err == nil {
		return fi.Size(), nil
	}
	if info, derr := packed.Stat(s.derived(d)); derr == nil {
		return info.BlobSize, nil
	} else if !errors.Is(derr, fs.ErrNotExist) {
		return 0, derr
	}
	return 0, missing(d, err)
}

// Reader opens the blob. The bytes are verified while they are read: at the end, instead of io.EOF, a blob that does not match its
// digest gives api.Corrupt, so a caller must not act on the bytes before it saw io.EOF.
func (s *Store) Reader(d digest.Digest) (io.ReadCloser, error) {
	path, err := s.path(d)
	if err != nil {
		return nil, err
	}
	var f io.ReadCloser
	if f, err = os.Open(path); err != nil {
		b, derr := packed.Open(s.derived(d))
		if derr != nil && !errors.Is(derr, fs.ErrNotExist) {
			return nil, derr
		}
		if derr != nil {
			return nil, missing(d, err)
		}
		f, path = b, s.derived(d)
	}
	return &reader{f: f, want: d, path: path, hash: newHash(d.Algorithm())}, nil
}

// Bytes returns a whole, verified blob. One longer than limit bytes is api.Corrupt: the callers read manifests and configs with it.
func (s *Store) Bytes(d digest.Digest, limit int64) ([]byte, error) {
	size, err := s.Size(d)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, api.Errorf(api.Corrupt, "blob %s: %d bytes, more than the %d that are allowed here", d, size, limit)
	}
	r, err := s.Reader(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, 0, size+1)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if int64(len(b)) > size {
			return nil, api.Errorf(api.Corrupt, "blob %s: it grew while it was read", d)
		}
	}
}

// Remove deletes the blob. That it is not there is no error.
func (s *Store) Remove(d digest.Digest) error {
	path, err := s.path(d)
	if err != nil {
		return err
	}
	for _, name := range []string{path, s.derived(d)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// RemoveFile deletes the blob's own file, where a packed layer gives the blob as well.
func (s *Store) RemoveFile(d digest.Digest) error {
	path, err := s.path(d)
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.derived(d)); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Blobs lists all blobs, in no order.
func (s *Store) Blobs() ([]digest.Digest, error) {
	var all []digest.Digest
	seen := map[digest.Digest]bool{}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		names, err := readNames(filepath.Join(s.dir, "blobs", string(alg)))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if d := digest.Digest(string(alg) + ":" + name); Check(d) == nil {
				all = append(all, d)
				seen[d] = true
			}
		}
	}
	names, err := readNames(filepath.Join(s.dir, "derived"))
	for _, name := range names {
		if d := digest.NewDigestFromEncoded(digest.SHA256, name); Check(d) == nil && !seen[d] {
			all = append(all, d)
		}
	}
	return all, err
}

// Check refuses with api.InvalidArgument what is not a digest in canonical form: sha256 or sha512, a colon, and all hexadecimal
// digits in lower case. Only a checked digest may become part of a path or a request.
func Check(d digest.Digest) error {
	alg, hex, ok := strings.Cut(string(d), ":")
	want := 0
	switch digest.Algorithm(alg) {
	case digest.SHA256:
		want = 2 * sha256.Size
	case digest.SHA512:
		want = 2 * sha512.Size
	}
	ok = ok && len(hex) == want
	for i := 0; ok && i < len(hex); i++ {
		ok = '0' <= hex[i] && hex[i] <= '9' || 'a' <= hex[i] && hex[i] <= 'f'
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "digest %q: must be sha256: or sha512: and that many hexadecimal digits in lower case", string(d))
	}
	return nil
}

// path is where the blob is kept.
func (s *Store) path(d digest.Digest) (string, error) {
	if err := Check(d); err != nil {
		return "", err
	}
	alg, hex, _ := strings.Cut(string(d), ":")
	return filepath.Join(s.dir, "blobs", alg, hex), nil
}

// derived is the link to the layer that gives the blob of a checked digest. Only a sha256 can have one.
func (s *Store) derived(d digest.Digest) string {
	_, hex, _ := strings.Cut(string(d), ":")
	return filepath.Join(s.dir, "derived", hex)
}

// prepare makes the folders and the format's marker where they are missing, durably.
func (s *Store) prepare() error {
	marker := filepath.Join(s.dir, "oci-layout")
	if _, err := os.Lstat(marker); err == nil {
		return nil
	}
	for _, sub := range []string{"ingest", "blobs/sha256", "blobs/sha512"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	for _, sub := range []string{"blobs", "..", "."} {
		if err := atomicfile.SyncDir(filepath.Join(s.dir, sub)); err != nil {
			return err
		}
	}
	return atomicfile.Write(marker, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600, atomicfile.Durable)
}

// reader hashes what it reads.
type reader struct {
	f    io.ReadCloser
	want digest.Digest
	path string
	hash hash.Hash
	done error // what the end was found to be
}

func (r *reader) Read(p []byte) (int, error) {
	if r.done != nil {
		return 0, r.done
	}
	n, err := r.f.Read(p)
	r.hash.Write(p[:n])
	if err == io.EOF {
		if got := digest.NewDigest(r.want.Algorithm(), r.hash); got != r.want {
			err = api.Errorf(api.Corrupt, "blob %s: the bytes in %s have digest %s; remove the image and pull it again", r.want, r.path, got)
		}
		r.done = err
	}
	return n, err
}

func (r *reader) Close() error { return r.f.Close() }

// newHash is the hash of a checked digest's algorithm.
func newHash(a digest.Algorithm) hash.Hash {
	if a == digest.SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// missing turns the system's "no such file" to api.NotFound.
func missing(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.NotFound, "blob %s: not in the store", d)
	}
	return err
}

// readNames lists a folder; one that is not there is empty.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
