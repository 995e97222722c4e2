package garbage

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/internal/store/snapshot"
	"brig/internal/store/usage"
)

// Removed is what was removed.
type Removed struct {
	Set
	Bytes int64 // that came back, where they were counted
}

// Remove removes what is in the set and not needed, and returns what it removed. The caller holds [Stores.Lock]. Where a damaged record keeps
// it from knowing what is needed, it removes nothing that might be, and the error says whose record that is.
//
// It may be killed at any moment: a blob or layer is gone or whole, and what is left goes with the next removal of all.
func (s Stores) Remove(set Set) (Removed, error) { return s.remove(set, false) }

// remove counts the bytes that come back if it is told so; that costs a look at every file.
func (s Stores) remove(set Set, count bool) (removed Removed, err error) {
	need, err := s.needed()
	if err != nil {
		return removed, err
	}
	var errs []error
	// Blobs first: to unlink a file needs no room on the disk, and makes some.
	for _, d := range set.Blobs {
		if need.blobs[d] {
			continue
		}
		if !s.Content.Has(d) {
			if _, ok := s.Content.Layer(d); ok { // what is left of the blob of a layer that has gone
				errs = append(errs, s.Content.Remove(d))
			}
			continue
		}
		if need.blobDoubt != nil {
			errs = append(errs, need.blobDoubt)
			break
		}
		n := sizeOf(s.blobPath(d), count)
		if err := s.Content.Remove(d); err != nil {
			errs = append(errs, err)
			continue
		}
		removed.Blobs = append(removed.Blobs, d)
		removed.Bytes += n
	}
	errs = append(errs, s.removeLayers(set, need, count, &removed))
	return removed, errors.Join(errs...)
}

// removeLayers removes one layer at a time, with no container being made meanwhile: the records of those that were made since are read
// before each.
func (s Stores) removeLayers(set Set, need *needs, count bool, removed *Removed) error {
	var errs []error
	seen := map[string]bool{}
	for _, d := range set.Layers {
		if need.layers[d] || !s.Snapshot.Has(d) {
			continue
		}
		if need.layerDoubt != nil {
			return errors.Join(append(errs, need.layerDoubt)...)
		}
		n := sizeOf(s.layerPath(d), count)
		still, err := s.Meta.Still()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		_, err = s.containers(need, seen)
		if err == nil && !need.layers[d] && need.layerDoubt == nil {
			if err = s.Snapshot.RemoveLayer(d.String()); err == nil {
				removed.Layers = append(removed.Layers, d)
				removed.Bytes += n
			}
		}
		still.Release()
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeShifted removes the layers with other owners that no container needs, as removeLayers does.
func (s Stores) removeShifted(removed *Removed) error {
	all, err := s.Snapshot.ShiftedTrees()
	if err != nil || len(all) == 0 {
		return err
	}
	still, err := s.Meta.Still()
	if err != nil {
		return err
	}
	defer still.Release()
	need := newNeeds()
	if err := s.neededByContainers(need); err != nil {
		return err
	}
	if need.layerDoubt != nil {
		return need.layerDoubt
	}
	var errs []error
	for _, file := range all {
		if need.shifted[snapshot.ShiftedName(file)] {
			continue
		}
		n := sizeOf(filepath.Join(s.Root, ShiftedUnits, file), true)
		if err := s.Snapshot.RemoveShifted(file); err != nil {
			errs = append(errs, err)
			continue
		}
		removed.Bytes += n
	}
	return errors.Join(errs...)
}

func sizeOf(path string, count bool) int64 {
	if !count {
		return 0
	}
	n, _ := usage.Of(path) // a number for the user; what cannot be counted counts nothing
	return n
}

func (s Stores) blobPath(d digest.Digest) string { return filepath.Join(s.Root, blobUnit(d)) }

func (s Stores) layerPath(d digest.Digest) string { return filepath.Join(s.Root, layerUnit(d)) }

func blobUnit(d digest.Digest) string {
	alg, hex, _ := strings.Cut(string(d), ":")
	return "content/blobs/" + alg + "/" + hex
}

func layerUnit(d digest.Digest) string {
	return "snapshot/layer/" + strings.TrimPrefix(string(d), "sha256:")
}
