package engine

import (
	"context"
	"errors"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
	"brig/internal/store/garbage"
)

// Images returns all image records. With an error of kind api.Corrupt it returns those that can be read.
func (e *Engine) Images(context.Context) ([]api.Image, error) {
	files, err := e.meta.ImageFiles()
	if err != nil {
		return nil, err
	}
	list := make([]api.Image, 0, len(files))
	var bad []error
	for _, f := range files {
		if f.Err != nil {
			bad = append(bad, f.Err)
			continue
		}
		list = append(list, f.Image)
	}
	slices.SortFunc(list, func(a, b api.Image) int {
		if n := b.Created.Compare(a.Created); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	if len(bad) > 0 {
		return list, &api.Error{Kind: api.Corrupt, Msg: "not all images can be listed", Err: errors.Join(bad...)}
	}
	return list, nil
}

// InspectImage finds an image by reference, ID or a prefix of its ID.
func (e *Engine) InspectImage(_ context.Context, name string) (api.Image, error) {
	r, rerr := ref.Parse(name)
	if rerr == nil {
		img, err := e.meta.Image(r.String())
		if err == nil || !errors.Is(err, api.NotFound) {
			return img, err
		}
	}
	img, err := e.meta.ImageByID(name)
	if err == nil || !errors.Is(err, api.NotFound) {
		return img, err
	}
	if rerr != nil {
		return img, rerr
	}
	if ref.Short(name) {
		if img, err := e.imageByShort(r.Familiar()); err == nil || !errors.Is(err, api.NotFound) {
			return img, err
		}
	}
	return img, api.Errorf(api.NotFound, "no such image: %s", name)
}

// imageByShort finds the image that was pulled by a name without a registry, where registries.conf says what such names mean.
func (e *Engine) imageByShort(name string) (api.Image, error) {
	all, err := e.meta.Images()
	if err != nil {
		return api.Image{}, err
	}
	i := slices.IndexFunc(all, func(img api.Image) bool { return img.Short == name })
	if i < 0 {
		return api.Image{}, api.NotFound
	}
	return all[i], nil
}

// Tag gives an image one more name. Another image that loses its last name to it stays, without one, as with docker: containers may be made of it.
func (e *Engine) Tag(ctx context.Context, source, target string) error {
	r, err := ref.Parse(target)
	if err != nil {
		return err
	}
	if strings.Contains(target, "@") {
		return api.Errorf(api.InvalidArgument, "cannot tag %s: a target may not have a digest", target)
	}
	stores := garbage.Open(e.root)
	if err := stores.CheckVersion(); err != nil {
		return err
	}
	if _, err := e.InspectImage(ctx, source); err != nil { // before a store is made for nothing
		return err
	}
	l, err := stores.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	img, err := e.InspectImage(ctx, source)
	if err != nil {
		return err
	}
	img.Trust = img.Origin() // it does not change with the name
	img.Name, img.Short = r.String(), ""
	if err := stores.Publish(img); err != nil {
		return err
	}
	e.note(happenedTo("image", img.ID, familiar(img.Name), "tag"))
	return nil
}

// RemoveImage takes a name off an image, and with its last name the image. The lines say what was done, as docker's do.
func (e *Engine) RemoveImage(ctx context.Context, name string, force bool) ([]string, error) {
	stores := garbage.Open(e.root)
	if err := stores.CheckVersion(); err != nil {
		return nil, err
	}
	l, err := stores.Lock()
	if err != nil {
		return nil, err
	}
	defer l.Release()
	img, err := e.InspectImage(ctx, name)
	if err != nil {
		return nil, err
	}
	all, err := e.meta.Images()
	if err != nil {
		return nil, err
	}
	same := slices.DeleteFunc(slices.Clone(all), func(o api.Image) bool { return o.ID != img.ID })
	drop := []api.Image{img}
	if r, err := ref.Parse(name); err != nil || img.Name != r.String() && img.Short != r.Familiar() { // by ID: all names
		if len(same) > 1 && !force {
			return nil, api.Errorf(api.Conflict, "image %s has several names: remove them one by one, or all with --force", name)
		}
		drop = same
	}
	last := len(drop) == len(same)
	if last {
		if err := e.checkUnused(ctx, &img, force); err != nil {
			return nil, err
		}
	}
	var lines []string
	for _, d := range drop {
		if d.Name != "" {
			lines = append(lines, "Untagged: "+familiar(d.Name))
		}
		if err := stores.Forget(d); err != nil {
			return lines, err
		}
		e.note(happenedTo("image", img.ID, familiar(d.Name), "untag"))
	}
	if !last {
		_, err := stores.Remove(stores.Of(img)) // what only this name needed: signatures, another packing of the layers
		return lines, err
	}
	lines = append(lines, "Deleted: "+img.ID)
	e.note(happenedTo("image", img.ID, img.ID, "delete"))
	removed, err := stores.Remove(stores.Of(img))
	for _, d := range removed.Layers {
		lines = append(lines, "Deleted: "+string(d))
	}
	return lines, err
}

// checkUnused refuses to take an image from under a container.
func (e *Engine) checkUnused(ctx context.Context, img *api.Image, force bool) error {
	list, err := e.List(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Image != img.ID {
			continue
		}
		if c.State.Status == api.StatusRunning || c.State.Status == api.StatusPaused {
			return api.Errorf(api.Conflict, "image %s is used by running container %s: stop and remove it first", familiar(img.Name), c.Name)
		}
		if !force {
			return api.Errorf(api.Conflict, "image %s is used by stopped container %s: remove it first, or use --force", familiar(img.Name), c.Name)
		}
	}
	return nil
}

// familiar is a reference as docker prints it: debian:12.
func familiar(name string) string {
	r, err := ref.Parse(name)
	if err != nil {
		return name
	}
	return r.Familiar()
}
