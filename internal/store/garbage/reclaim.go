package garbage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/store/usage"
)

// request is a reservation that does not fit, in bytes.
type request struct{ limit, used, held, want int64 }

// candidate is an image, with all its names, that nothing in use is made of.
type candidate struct {
	id    string
	names []api.Image
	used  time.Time
}

// reclaim removes at least short bytes of what u measured: what nothing needs, then images that are not in use, the least recently used first.
// If all of that would not be enough it removes nothing, and the error says what holds the space.
func (s Stores) reclaim(ctx context.Context, u usage.Usage, short int64, r request) error {
	l, err := within(ctx, s.Lock)
	if err != nil {
		return err
	}
	defer l.Release()
	need, err := s.needed()
	if err != nil {
		return err
	}
	use, candidates, err := s.unused()
	if err != nil {
		return err
	}
	var free int64
	for _, left := range s.leftovers(u, use) {
		free += left.Bytes
	}
	if free < short {
		return s.exhausted(u, use, free, r)
	}
	if need.blobDoubt != nil || need.layerDoubt != nil {
		return api.Errorf(api.Exhausted, "the store in %s is at its limit of %d bytes: %w", s.Root, r.limit, errors.Join(need.blobDoubt, need.layerDoubt))
	}
	removed, err := s.Sweep(ctx)
	if err != nil {
		return err
	}
	freed := removed.Bytes
	for _, c := range candidates {
		if freed >= short || ctx.Err() != nil {
			break
		}
		_, removed, err := s.evict(c)
		if err != nil {
			return err
		}
		freed += removed.Bytes
	}
	return context.Cause(ctx)
}

// evict removes an image with all its names, unless a container was made of it meanwhile.
func (s Stores) evict(c candidate) (evicted bool, removed Removed, err error) {
	if evicted, err = s.forgetUnused(c); !evicted || err != nil {
		return evicted, removed, err
	}
	var set Set
	for _, img := range c.names {
		of := s.Of(img)
		set.Blobs, set.Layers = append(set.Blobs, of.Blobs...), append(set.Layers, of.Layers...)
	}
	removed, err = s.remove(set, true)
	return true, removed, err
}

// forgetUnused takes all names off an image. No container is being made while it looks whether one was made of it.
func (s Stores) forgetUnused(c candidate) (bool, error) {
	still, err := s.Meta.Still()
	if err != nil {
		return false, err
	}
	defer still.Release()
	used, err := s.usedImages()
	if err != nil || used[c.id] != "" {
		return false, err
	}
	for _, img := range c.names {
		if err := s.Forget(img); err != nil && !errors.Is(err, api.NotFound) {
			return false, err
		}
	}
	return true, nil
}

// usedImages maps the IDs of the images that containers are made of to such a container's name.
func (s Stores) usedImages() (map[string]string, error) {
	used := map[string]string{}
	all, err := s.containers(newNeeds(), map[string]bool{})
	for _, c := range all {
		used[c.Image] = c.Name
	}
	return used, err
}

// unused lists the images that may go, the least recently used first, and what is needed by all that may not.
func (s Stores) unused() (use *needs, candidates []candidate, err error) {
	use = newNeeds()
	if err := s.neededByContainers(use); err != nil {
		return nil, nil, err
	}
	if err := s.neededByRegistry(use); err != nil {
		return nil, nil, err
	}
	if err := s.neededByLeases(use); err != nil {
		return nil, nil, err
	}
	used, err := s.usedImages()
	if err != nil {
		return nil, nil, err
	}
	images, err := s.Meta.Images()
	if err != nil {
		return nil, nil, err
	}
	leased := newNeeds()
	if err := s.neededByLeases(leased); err != nil {
		return nil, nil, err
	}
	byID := map[string]*candidate{}
	for _, img := range images {
		c := byID[img.ID]
		if c == nil {
			c = &candidate{id: img.ID}
			byID[img.ID] = c
		}
		c.names = append(c.names, img)
		if t := s.Meta.ImageUsed(&img); t.After(c.used) {
			c.used = t
		}
	}
	for id, c := range byID {
		inUse := used[id] != ""
		for _, img := range c.names {
			inUse = inUse || leased.blobs[img.Manifest.Digest] // it is being brought in anew
		}
		if !inUse {
			candidates = append(candidates, *c)
			continue
		}
		for _, img := range c.names {
			use.add(s.Of(img))
		}
	}
	s.neededByBlobs(use)
	slices.SortFunc(candidates, func(a, b candidate) int {
		if n := a.used.Compare(b.used); n != 0 {
			return n
		}
		return strings.Compare(a.id, b.id)
	})
	return use, candidates, nil
}

// exhausted is the error of a reservation for which there is no room; free is what could have been removed.
func (s Stores) exhausted(u usage.Usage, use *needs, free int64, r request) error {
	var images, containers, volumes, other int64
	left := map[string]bool{}
	for _, l := range s.leftovers(u, use) {
		left[l.Unit] = true
	}
	for name, n := range u.Units {
		switch {
		case left[name]:
		case strings.HasPrefix(name, BlobUnits), strings.HasPrefix(name, LayerUnits), strings.HasPrefix(name, ShiftedUnits):
			images += n
		case strings.HasPrefix(name, ContainerUnits), strings.HasPrefix(name, ActiveUnits):
			containers += n
		case strings.HasPrefix(name, VolumeUnits):
			volumes += n
		default:
			other += n
		}
	}
	held := fmt.Sprintf("images in use %d, containers and their logs %d, volumes %d, other %d", images, containers, volumes, other)
	if r.held > 0 {
		held += fmt.Sprintf(", transfers under way %d", r.held)
	}
	return api.Errorf(api.Exhausted, "no room for %d bytes more in %s, whose limit is %d bytes: %s (bytes), and only %d could be removed; "+
		"remove containers or volumes, see `brig system df`, or raise the limit with `brig system limit`", r.want, s.Root, r.limit, held, free)
}
