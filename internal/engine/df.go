package engine

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/store/garbage"
)

// DiskUsage measures what the store takes. Every file below --root is counted in one type, so they add up to what du says.
func (e *Engine) DiskUsage(ctx context.Context) (api.DiskUsage, error) {
	stores := garbage.Open(e.root)
	var d disk
	var err error
	if d.units, d.leftovers, err = e.measure(ctx, stores); err != nil {
		return api.DiskUsage{}, err
	}
	if d.containers, err = e.List(ctx); err != nil {
		return api.DiskUsage{}, err
	}
	if d.images, err = e.meta.Images(); err != nil {
		return api.DiskUsage{}, err
	}
	set, err := stores.Settings()
	if err != nil && !errors.Is(err, api.Corrupt) { // check names it
		return api.DiskUsage{}, err
	}
	u := api.DiskUsage{Limit: set.StoreLimit}
	for _, n := range d.units {
		u.Total += n
	}
	if err := e.imageUsage(stores, &d, &u); err != nil {
		return u, err
	}
	e.containerUsage(&d, &u)
	if err := e.volumeUsage(&d, &u); err != nil {
		return u, err
	}
	otherUsage(&d, &u)
	return u, nil
}

// measure gets the sizes of all units, and which of them are left over. A store that is not there yet is not made.
func (e *Engine) measure(ctx context.Context, stores garbage.Stores) (map[string]int64, []garbage.Leftover, error) {
	if !exists(e.root) {
		return nil, nil, nil
	}
	u, left, err := stores.Leftovers(ctx)
	return u.Units, left, err
}

// disk is what the types are made from. What a type has counted is taken out of units.
type disk struct {
	units      map[string]int64
	leftovers  []garbage.Leftover
	containers []api.Container
	images     []api.Image
}

// take adds up all units that begin with prefix and pass, and takes them out.
func (d *disk) take(prefix string, pass func(unit string) bool) (sum int64) {
	for name, n := range d.units {
		if strings.HasPrefix(name, prefix) && (pass == nil || pass(name)) {
			sum += n
			delete(d.units, name)
		}
	}
	return sum
}

// imageUsage: an image is made of blobs and layers, which it may share. Of use are those of images that a container is made of, and the layers
// of containers, and what repositories of the registry have.
func (e *Engine) imageUsage(stores garbage.Stores, d *disk, u *api.DiskUsage) error {
	made := map[string]int{} // containers of an image
	used := map[string]bool{}
	for _, c := range d.containers {
		made[c.Image]++
		for _, l := range c.Layers {
			used[garbage.LayerUnit(digest.Digest(l))] = true
		}
	}
	served, err := stores.RegistryBlobs()
	if err != nil {
		return err
	}
	for blob := range served {
		for unit := range stores.UnitsOfBlob(blob) {
			used[unit] = true
		}
	}
	ids := map[string]map[string]bool{} // units of an image ID
	of := map[string]int{}              // how many image IDs have a unit
	for _, img := range d.images {
		if ids[img.ID] == nil {
			ids[img.ID] = map[string]bool{}
		}
		for unit := range stores.UnitsOf(img) {
			if !ids[img.ID][unit] {
				ids[img.ID][unit] = true
				of[unit]++
			}
			used[unit] = used[unit] || made[img.ID] > 0
		}
	}
	t := api.TypeUsage{Type: "Images", Total: len(ids)}
	for id := range ids {
		if made[id] > 0 {
			t.Active++
		}
	}
	u.Images = []api.ImageUsage{}
	for _, img := range d.images {
		i := api.ImageUsage{Image: img, Containers: made[img.ID]}
		for unit := range ids[img.ID] {
			i.Size += d.units[unit]
			if of[unit] > 1 {
				i.Shared += d.units[unit]
			}
		}
		u.Images = append(u.Images, i)
	}
	for _, prefix := range []string{garbage.BlobUnits, garbage.LayerUnits} {
		unused := d.take(prefix, func(unit string) bool { return !used[unit] })
		t.Reclaimable += unused
		t.Size += unused + d.take(prefix, nil)
	}
	left := map[string]bool{}
	for _, l := range d.leftovers {
		left[l.Unit] = true
	}
	unused := d.take(garbage.ShiftedUnits, func(unit string) bool { return left[unit] })
	t.Reclaimable += unused
	t.Size += unused + d.take(garbage.ShiftedUnits, nil)
	u.Types = append(u.Types, t)
	return nil
}

// containerUsage: what a container keeps is of use as long as it runs; its logs are a type of their own.
func (e *Engine) containerUsage(d *disk, u *api.DiskUsage) {
	t, logs := api.TypeUsage{Type: "Containers"}, api.TypeUsage{Type: "Logs"}
	u.Containers = []api.ContainerUsage{}
	for _, c := range d.containers {
		cu := api.ContainerUsage{Container: c}
		name := garbage.ContainerUnits + c.ID
		if _, ok := d.units[name+"/log"]; ok {
			logs.Total++
			if isUp(&c) {
				logs.Active++
			}
		}
		cu.Logs = d.take(name+"/log", nil)
		cu.Size = d.take(name, nil) + d.take(garbage.ActiveUnits+c.ID, nil)
		for _, m := range c.Spec.Mounts {
			if m.Type == "volume" {
				cu.Volumes++
			}
		}
		t.Total++
		t.Size, logs.Size = t.Size+cu.Size, logs.Size+cu.Logs
		if isUp(&c) {
			t.Active++
		} else {
			t.Reclaimable, logs.Reclaimable = t.Reclaimable+cu.Size, logs.Reclaimable+cu.Logs
		}
		u.Containers = append(u.Containers, cu)
	}
	u.Types = append(u.Types, t, logs) // volumeUsage comes between
}

func isUp(c *api.Container) bool {
	return c.State.Status == api.StatusRunning || c.State.Status == api.StatusPaused
}

// volumeUsage: a volume that no container mounts can be reclaimed.
func (e *Engine) volumeUsage(d *disk, u *api.DiskUsage) error {
	links := map[string]int{}
	for _, c := range d.containers {
		for _, m := range c.Spec.Mounts {
			if m.Type == "volume" {
				links[m.Source]++
			}
		}
	}
	t := api.TypeUsage{Type: "Local Volumes"}
	u.Volumes = []api.VolumeUsage{}
	names, err := e.volumeNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		rec, _ := e.volume(name)
		v := api.VolumeUsage{Name: name, Anonymous: rec.Anonymous, Links: links[name]}
		v.Size = d.units[garbage.VolumeUnits+name]
		delete(d.units, garbage.VolumeUnits+name)
		t.Total++
		t.Size += v.Size
		if links[name] > 0 {
			t.Active++
		} else {
			t.Reclaimable += v.Size
		}
		u.Volumes = append(u.Volumes, v)
	}
	u.Types = slices.Insert(u.Types, len(u.Types)-1, t)
	return nil
}

// volumeNames lists the folders of volumes, in order, half made ones among them.
func (e *Engine) volumeNames() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(e.root, "volume"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

// otherUsage is all that is left: what nobody needs by what it is, and the records.
func otherUsage(d *disk, u *api.DiskUsage) {
	sums := map[string]*api.OtherUsage{}
	add := func(what string, n, reclaimable int64) {
		if sums[what] == nil {
			sums[what] = &api.OtherUsage{What: what}
		}
		sums[what].Size += n
		sums[what].Reclaimable += reclaimable
	}
	for _, l := range d.leftovers {
		if n, ok := d.units[l.Unit]; ok {
			add(l.What, n, n)
			delete(d.units, l.Unit)
		}
	}
	for name, n := range d.units {
		switch top, below, _ := strings.Cut(name, "/"); {
		case below != "" && (top == "content" || top == "snapshot"):
			add("on its way in", n, 0)
		default:
			add("records and folders", n, 0)
		}
	}
	t := api.TypeUsage{Type: "Other"}
	u.Others = []api.OtherUsage{}
	for _, what := range slices.Sorted(maps.Keys(sums)) {
		o := *sums[what]
		u.Others = append(u.Others, o)
		t.Total++
		if o.Reclaimable < o.Size {
			t.Active++
		}
		t.Size += o.Size
		t.Reclaimable += o.Reclaimable
	}
	u.Types = append(u.Types, t)
}
