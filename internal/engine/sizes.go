package engine

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"brig/api"
	"brig/internal/store/garbage"
)

// ContainerSizes measures the files of the named containers, without names of all, by ID: content, as docker counts it, not room on the disk.
func (e *Engine) ContainerSizes(ctx context.Context, names ...string) (map[string]api.ContainerSize, error) {
	ids := names
	if len(names) == 0 {
		var err error
		if ids, err = e.meta.ContainerIDs(); err != nil {
			return nil, err
		}
	}
	sizes := map[string]api.ContainerSize{}
	for _, id := range ids {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c, err := e.meta.Container(id)
		if err != nil {
			if len(names) == 0 { // removed meanwhile, or dead
				continue
			}
			return nil, err
		}
		size := api.ContainerSize{Writable: contentOf(filepath.Join(e.root, garbage.ActiveUnits, c.ID, "fs"))}
		for _, l := range c.Layers {
			if n, err := e.snapshot.LayerSize(l); err == nil {
				size.Image += n
			}
		}
		sizes[c.ID] = size
	}
	return sizes, nil
}

// contentOf adds up the sizes of the files below a folder that a container writes to. What changes meanwhile may be missed.
func contentOf(dir string) (sum int64) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0 // it has not been started
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				sum += fi.Size()
			}
		}
		return nil
	})
	return sum
}
