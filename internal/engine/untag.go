package engine

import (
	"context"
	"errors"
	"slices"

	"brig/api"
	"brig/internal/image/ref"
	"brig/internal/store/garbage"
)

// Untag takes names off an image, or all that it has; the image stays, in the end without a name. Nothing is changed when one of the names is
// not the image's.
func (e *Engine) Untag(ctx context.Context, name string, names []string) error {
	l, err := garbage.Open(e.root).Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	img, err := e.InspectImage(ctx, name)
	if err != nil {
		return err
	}
	all, err := e.meta.Images()
	if err != nil {
		return err
	}
	var has, drop []string
	for _, o := range all {
		if o.ID == img.ID && o.Name != "" {
			has = append(has, o.Name)
		}
	}
	drop = has
	if len(names) > 0 {
		drop = nil
	}
	for _, n := range names {
		r, err := ref.Parse(n)
		if err != nil {
			return err
		}
		if !slices.Contains(has, r.String()) {
			return api.Errorf(api.NotFound, "%s: the image %s has no such name", n, name)
		}
		if !slices.Contains(drop, r.String()) {
			drop = append(drop, r.String())
		}
	}
	if len(drop) == len(has) {
		if err := e.keepUntagged(img); err != nil {
			return err
		}
	}
	for _, n := range drop {
		if err := e.content.RemoveRef(n); err != nil && !errors.Is(err, api.NotFound) {
			return err
		}
		if err := e.meta.RemoveImage(n); err != nil && !errors.Is(err, api.NotFound) {
			return err
		}
		e.note(happenedTo("image", img.ID, familiar(n), "untag"))
	}
	return nil
}

// keepUntagged writes an image down by its ID alone, before it loses its last name.
func (e *Engine) keepUntagged(img api.Image) error {
	img.Trust = img.Origin()
	img.Name, img.Short = "", ""
	if err := e.content.SetRef(img.ID, img.Target); err != nil {
		return err
	}
	return e.meta.PutImage(img)
}
