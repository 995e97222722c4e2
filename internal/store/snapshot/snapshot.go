// Package snapshot keeps root file systems: layers of images, unpacked once and shared, and a writable layer for each container.
//
//	layer/HEX/fs        the files of a layer, as overlayfs takes a lower layer
//	layer/HEX/size      bytes of file content in it, in decimal
//	layer/HEX/image     or: the layer as a file system in one file, from which its blob can be had as well
//	layer/HEX/recipe    what that takes (package packed), and what the layer is
//	unpack/HEX/         a layer on its way in
//	unpack/HEX.lock     held by who unpacks it
//	shifted/…           layers as one tree, for containers with a user namespace within a normal user's (shifted.go)
//	active/ID/fs, work  upper and work folder of a container's overlay
//
// HEX is the layer's diff ID, the digest of its uncompressed archive. A layer depends on nothing below it, so images share layers
// whatever their order. What the archive says about a removed file becomes overlayfs's own mark: a character device 0:0, or the
// attribute trusted.overlay.opaque of a folder.
//
// A layer appears by rename once it is complete, verified and durable: one that is there needs no check but that. A folder in unpack/ whose
// lock is free is what a dead process left, and is removed by the next that unpacks. Writable layers are not made durable: their
// content is the container's, and the kernel's to write back.
//
// Overlay options are chosen by length. As long as they fit in a page, the lower layers are one option, lowerdir=TOP:…:BOTTOM, for
// mount(2); fsconfig(2) would refuse it, since it takes no value longer than 255 bytes. Above that each layer is an option of its own,
// lowerdir+=LAYER, top first, which only fsconfig(2) takes, from kernel 6.5 on. The first option tells which it is.
package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/store/owners"
	"brig/internal/store/packed"
	"brig/internal/store/snapshot/tree"

	"github.com/opencontainers/go-digest"
)

// Store is a folder of snapshots. It has no state of its own: any number of Stores may be open on one folder, in any number of processes.
type Store struct {
	dir, state string
	elsewhere  map[string]string // see With
	below      string            // see Over
	shifted    *owners.Map       // see Of; nil: owners are as in the layers
}

// With is the store with layers that are mounted elsewhere, by diff ID.
func (s *Store) With(elsewhere map[string]string) *Store {
	o := *s
	o.elsewhere = elsewhere
	return &o
}

// Over is the store with one more folder right below the writable layers that it prepares: what a container that does not run has changed, see [Store.Upper],
// for another to see. Nothing is written to it.
func (s *Store) Over(dir string) *Store {
	o := *s
	o.below = dir
	return &o
}

// Open names the folder. It does no I/O; folders are made, 0700, by the first write.
func Open(dir string) *Store { return &Store{dir: dir} }

// Has reports whether the layer is unpacked.
func (s *Store) Has(diffID digest.Digest) bool {
	hex, err := checkDiffID(string(diffID))
	if err != nil {
		return false
	}
	_, err = os.Lstat(s.layer(hex))
	return err == nil
}

// Layers lists the unpacked layers, in no order.
func (s *Store) Layers() ([]digest.Digest, error) {
	names, err := readNames(filepath.Join(s.dir, "layer"))
	if err != nil {
		return nil, err
	}
	var all []digest.Digest
	for _, name := range names {
		if d := "sha256:" + name; isDiffID(d) {
			all = append(all, digest.Digest(d))
		}
	}
	return all, nil
}

// LayerSize returns the bytes of file content in an unpacked layer, as counted when it was unpacked.
func (s *Store) LayerSize(diffID string) (int64, error) {
	hex, err := checkDiffID(diffID)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(s.layer(hex), "size"))
	if errors.Is(err, fs.ErrNotExist) {
		info, err := packed.Stat(s.layer(hex))
		if !errors.Is(err, fs.ErrNotExist) {
			return info.Size, err
		}
		return 0, api.Errorf(api.NotFound, "layer %s: not in the store", diffID)
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, &api.Error{Kind: api.Corrupt, Msg: "layer " + diffID + ": its size", Err: err}
	}
	return n, nil
}

// RemoveLayer removes an unpacked layer. No container that uses it may be left. That it is not there is no error. The layer is gone
// as soon as the removal begins; what a kill leaves of it is swept like a half unpacked one.
func (s *Store) RemoveLayer(diffID string) error {
	hex, err := checkDiffID(diffID)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(s.layer(hex)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	l, err := s.lockUnpack(hex)
	if err != nil {
		return err
	}
	defer s.unlockUnpack(hex, l)
	tmp := s.unpacking(hex)
	if err := tree.Remove(tmp); err != nil {
		return err
	}
	if s.isPacked(hex) {
		if err := s.unmountLayer(hex); err != nil {
			return err
		}
	}
	if err := os.Rename(s.layer(hex), tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	// Durable before the files go: after a power cut a layer is whole or not there.
	if err := atomicfile.SyncDir(filepath.Join(s.dir, "layer")); err != nil {
		return err
	}
	if err := tree.Remove(tmp); err != nil {
		return err
	}
	return s.removeShiftedOf(hex)
}

// removeShiftedOf removes the trees of a layer that is gone. What a kill leaves of them nobody needs either.
func (s *Store) removeShiftedOf(hex string) error {
	names, err := s.ShiftedTrees()
	errs := []error{err}
	for _, name := range names {
		made, err := os.ReadFile(filepath.Join(s.dir, "shifted", name, "layers"))
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			continue
		}
		if err != nil || strings.Contains(string(made), hex) {
			errs = append(errs, s.RemoveShifted(name))
		}
	}
	return errors.Join(errs...)
}

// Active lists the containers that have a writable layer, in order.
func (s *Store) Active() ([]string, error) {
	names, err := readNames(filepath.Join(s.dir, "active"))
	slices.Sort(names)
	return names, err
}

// Usage returns the bytes that a container's writable layer takes on the disk, its folders and marks included.
func (s *Store) Usage(id string) (int64, error) {
	if err := checkID(id); err != nil {
		return 0, err
	}
	what := s.active(id) + "/fs"
	if s.place(id) != s.active(id) {
		what = s.image(id)
	}
	n, err := tree.Usage(what)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, api.Errorf(api.NotFound, "snapshot of container %s: not in the store", id)
	}
	return n, err
}

func (s *Store) layer(hex string) string     { return filepath.Join(s.dir, "layer", hex) }
func (s *Store) unpacking(hex string) string { return filepath.Join(s.dir, "unpack", hex) }
func (s *Store) active(id string) string     { return filepath.Join(s.dir, "active", id) }

// isDiffID reports whether d is a sha256 digest in canonical form. Images name their layers by no other algorithm.
func isDiffID(d string) bool {
	hex, ok := strings.CutPrefix(d, "sha256:")
	ok = ok && len(hex) == 64
	for i := 0; ok && i < len(hex); i++ {
		ok = '0' <= hex[i] && hex[i] <= '9' || 'a' <= hex[i] && hex[i] <= 'f'
	}
	return ok
}

// checkDiffID returns the digits of a diff ID, which may then be part of a path.
func checkDiffID(d string) (string, error) {
	if !isDiffID(d) {
		return "", api.Errorf(api.InvalidArgument, "layer %q: not a diff ID, sha256: and 64 hexadecimal digits in lower case", d)
	}
	return d[len("sha256:"):], nil
}

// checkID refuses an ID that is not a plain file name.
func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") || len(id) > 255 {
		return api.Errorf(api.InvalidArgument, "snapshot: %q is not an ID", id)
	}
	return nil
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
