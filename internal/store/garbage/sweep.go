package garbage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/store/snapshot/tree"
	"brig/internal/store/usage"
)

// Sweep removes all that nothing needs: blobs and layers of no image and no container, and whatever processes left that died. It also
// sets names right that were taken half off. The caller holds [Stores.Lock]. It goes on after a failure, and what it could not remove is left to the
// next.
func (s Stores) Sweep(ctx context.Context) (Removed, error) {
	removed, err := s.sweepDead(ctx)
	errs := []error{err}
	all, err := s.All()
	if err != nil {
		return removed, errors.Join(append(errs, err)...)
	}
	more, err := s.remove(all, true)
	more.Bytes += removed.Bytes
	errs = append(errs, err, s.removeShifted(&more), s.fixNames()) // names need room on the disk, which there may be now
	return more, errors.Join(errs...)
}

// temporaryAge is how long a record may be half written: its writer renames it at once, unless it was killed.
const temporaryAge = time.Hour

// sweepDead removes what is no blob and no layer.
func (s Stores) sweepDead(ctx context.Context) (removed Removed, err error) {
	var errs []error
	// remove takes away one thing that is nobody's.
	remove := func(path string) {
		n, _ := usage.Of(path)
		// Trash is emptied by everybody: what another has removed meanwhile is gone too.
		if err := tree.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			return
		}
		removed.Bytes += n
	}
	// unheld does so under the lock at held, unless somebody has it. The lock goes too.
	unheld := func(path, held string) {
		l, err := lock.Try(held)
		if err != nil {
			return // somebody is at work on it
		}
		remove(path)
		if held != path {
			remove(held)
		}
		l.Release()
	}
	// ingested is a blob on its way in, or a link that is being made in one go with the next system call.
	ingested := func(path string) {
		fi, err := os.Lstat(path)
		switch {
		case err != nil || fi.IsDir():
		case fi.Mode().IsRegular():
			unheld(path, path)
		case time.Since(fi.ModTime()) > time.Minute:
			remove(path)
		}
	}
	// old is for what is written without the lock that the caller holds.
	old := func(path string) {
		if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() && isTemporary(path) && time.Since(fi.ModTime()) > temporaryAge {
			remove(path)
		}
	}
	inside := func(dir string) {
		names, _ := readNames(dir) // no folder, or gone meanwhile
		for _, name := range names {
			old(filepath.Join(dir, name))
		}
	}
	for _, f := range []struct {
		units string
		sweep func(path string)
	}{
		{trashUnits, remove},
		{QuarantineUnits, remove},
		{partUnits, func(path string) { unheld(path, path) }},
		{IngestUnits, ingested},
		{unpackUnits, func(path string) { unheld(path, unpackLock(path)) }},
		{leaseUnits, func(path string) { unheld(path, path) }},
		{holdUnits, func(path string) {
			if isHold(filepath.Base(path)) {
				unheld(path, path)
			}
		}},
		// Records and names are written under the lock that the caller holds: what is half written now is left.
		{"image/", func(path string) {
			if isTemporary(path) {
				remove(path)
			}
		}},
		{"content/", func(path string) {
			if isTemporary(path) && strings.HasPrefix(filepath.Base(path), "index.json") {
				remove(path)
			}
		}},
		{"", func(path string) {
			if base := filepath.Base(path); isTemporary(path) && (strings.HasPrefix(base, settingsFile) || strings.HasPrefix(base, versionFile)) {
				remove(path)
			}
		}},
		{"content/", old},
		{"network/", old},
		{holdUnits, old},
		{ContainerUnits, inside},
		{VolumeUnits, inside},
	} {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		names, err := readNames(filepath.Join(s.Root, f.units))
		if err != nil {
			errs = append(errs, err)
		}
		for _, name := range names {
			f.sweep(filepath.Join(s.Root, f.units, name))
		}
	}
	errs = append(errs, s.sweepActive(&removed))
	return removed, errors.Join(errs...)
}

// sweepActive removes the writable layers of containers that are no more.
func (s Stores) sweepActive(removed *Removed) error {
	ids, err := s.Snapshot.Active()
	if err != nil || len(ids) == 0 {
		return err
	}
	still, err := s.Meta.Still()
	if err != nil {
		return err
	}
	defer still.Release()
	var errs []error
	for _, id := range ids {
		if _, err := os.Lstat(s.Meta.Dir(id)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		n, _ := usage.Of(filepath.Join(s.Root, ActiveUnits, id))
		if err := s.Snapshot.Remove(id); err != nil {
			errs = append(errs, err)
			continue
		}
		removed.Bytes += n
	}
	return errors.Join(errs...)
}

// isTemporary knows the files that package atomicfile has not renamed yet: NAME.tmpPID-N.
func isTemporary(path string) bool {
	_, rest, ok := strings.Cut(filepath.Base(path), ".tmp")
	return ok && rest != "" && strings.Trim(rest, "-0123456789") == ""
}

// fixNames lets index.json say what the records say: a process that was killed between the two has left them apart.
func (s Stores) fixNames() error {
	files, err := s.Meta.ImageFiles()
	if err != nil {
		return err
	}
	refs, err := s.Content.Refs()
	if err != nil {
		return err // damaged: check repairs it
	}
	var errs []error
	has := map[string]imagespec.Descriptor{}
	for _, r := range refs {
		name := r.Annotations[imagespec.AnnotationRefName]
		kept := false
		for _, f := range files {
			kept = kept || f.Of(name)
		}
		if kept {
			has[name] = r
		} else {
			errs = append(errs, s.Content.RemoveRef(name))
		}
	}
	for _, f := range files {
		if f.Err != nil {
			continue
		}
		key, t := keyOf(f.Image), f.Image.Target
		if r := has[key]; r.Digest != t.Digest || r.MediaType != t.MediaType || r.Size != t.Size {
			errs = append(errs, s.Content.SetRef(key, t))
		}
	}
	return errors.Join(errs...)
}

// Publish gives an image its name, which another may have had: that one stays, without a name if it has no other. The caller holds
// [Stores.Lock], and has looked that all of the image is there.
func (s Stores) Publish(img api.Image) error {
	old, err := s.Meta.Image(img.Name)
	if img.Name != "" && err == nil && old.ID != img.ID {
		if err := s.untag(old); err != nil {
			return err
		}
	}
	if err := s.Content.SetRef(keyOf(img), img.Target); err != nil {
		return err
	}
	if err := s.Meta.PutImage(img); err != nil {
		return err
	}
	if img.Name == "" {
		return nil
	}
	// The image has a name now; it need not be listed without one as well.
	if _, err := s.Meta.Image(img.ID); err != nil {
		return nil //nolint:nilerr // it was not
	}
	return s.Forget(api.Image{ID: img.ID})
}

// untag keeps an image that is about to lose its name, unless it has another.
func (s Stores) untag(old api.Image) error {
	images, err := s.Meta.Images()
	if err != nil {
		return err
	}
	for _, img := range images {
		if img.ID == old.ID && img.Name != old.Name {
			return nil
		}
	}
	old.Trust = old.Origin()
	old.Name, old.Short = "", ""
	if err := s.Content.SetRef(old.ID, old.Target); err != nil {
		return err
	}
	return s.Meta.PutImage(old)
}

// Forget takes the name off an image, or the image without a name out of the list. What is behind it stays, for [Stores.Remove]. The caller holds
// [Stores.Lock]. A full disk does not keep it from that: the name in index.json goes later.
func (s Stores) Forget(img api.Image) error {
	key := keyOf(img)
	err := s.Content.RemoveRef(key)
	if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, api.Corrupt) {
		return err
	}
	return s.Meta.RemoveImage(key)
}

// keyOf is what an image is kept under.
func keyOf(img api.Image) string {
	if img.Name == "" {
		return img.ID
	}
	return img.Name
}

func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
