package garbage

import (
	"context"
	"errors"
	"slices"
	"strings"

	"brig/api"
)

// PrunedImage is an image that was removed.
type PrunedImage struct {
	ID     string
	Names  []string // full references; none of an untagged one
	Layers []string // diff IDs that no other image and no container needed
}

// PruneImages removes the images of which no container is made and that the caller wants to go: want is asked for one ID at a time, with the records
// of all its names. Then it sweeps. It returns what went, also with an error. It may be killed at any moment: an image is listed, whole, or it is not.
func (s Stores) PruneImages(ctx context.Context, want func([]api.Image) bool) (gone []PrunedImage, bytes int64, err error) {
	l, err := within(ctx, s.Lock)
	if err != nil {
		return nil, 0, err
	}
	defer l.Release()
	need, err := s.needed()
	if err != nil {
		return nil, 0, err
	}
	if err := errors.Join(need.blobDoubt, need.layerDoubt); err != nil {
		return nil, 0, err // before a name is taken off what then could not be removed
	}
	_, candidates, err := s.unused()
	if err != nil {
		return nil, 0, err
	}
	for _, c := range candidates {
		if ctx.Err() != nil {
			return gone, bytes, context.Cause(ctx)
		}
		if !want(c.names) {
			continue
		}
		evicted, removed, err := s.evict(c)
		bytes += removed.Bytes
		if evicted {
			g := PrunedImage{ID: c.id}
			for _, img := range c.names {
				if img.Name != "" {
					g.Names = append(g.Names, img.Name)
				}
			}
			for _, d := range removed.Layers {
				g.Layers = append(g.Layers, d.String())
			}
			slices.Sort(g.Names)
			gone = append(gone, g)
		}
		if err != nil {
			return gone, bytes, err
		}
	}
	slices.SortFunc(gone, func(a, b PrunedImage) int {
		return strings.Compare(strings.Join(a.Names, " ")+a.ID, strings.Join(b.Names, " ")+b.ID)
	})
	removed, err := s.Sweep(ctx)
	return gone, bytes + removed.Bytes, err
}
