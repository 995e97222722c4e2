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
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/store/garbage"
	"brig/internal/store/snapshot/tree"
)

// CreateVolume makes a volume; one of that name that is there already stays as it is, where it was made in the same way. Without a name it is given one, and is
// anonymous.
func (e *Engine) CreateVolume(ctx context.Context, v api.Volume) (api.Volume, error) {
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return v, err
	}
	if v.Name == "" {
		v.Name, v.Anonymous = id.New(), true
	}
	if err := checkVolumeOptions(v.Options); err != nil {
		return v, err
	}
	still, err := e.meta.Still() // or one that is being removed is found
	if err != nil {
		return v, err
	}
	defer still.Release()
	switch old, err := e.volume(v.Name); {
	case err == nil:
		if !maps.Equal(old.Options, v.Options) && len(v.Options) > 0 {
			return v, api.Errorf(api.Conflict, "volume %s is there already, with other options: remove it first with `brig volume rm %s`", v.Name, v.Name)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return v, err
	default:
		rec := volumeRecord{Anonymous: v.Anonymous, Created: time.Now().UTC().Truncate(time.Second), Labels: v.Labels, Options: v.Options}
		if err := e.ensureVolume(v.Name, rec, atomicfile.Durable); err != nil {
			return v, err
		}
	}
	return e.volumeOf(v.Name)
}

// checkVolumeOptions knows of the options of docker's local driver those that bind a folder of the host.
func checkVolumeOptions(options map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		switch v := options[k]; {
		case k == "device" && filepath.IsAbs(v):
		case k == "type" && (v == "none" || v == "bind"), k == "o" && (v == "bind" || v == "rbind"):
		case k == "device":
			return api.Errorf(api.InvalidArgument, "volume option device=%s: it must be the absolute path of a folder", v)
		case k == "type" || k == "o":
			return api.Errorf(api.Unsupported, "volume option %s=%s is not supported: a volume is a folder of its own or, with type=none, o=bind and device=PATH, one of the host", k, v)
		default:
			return api.Errorf(api.InvalidArgument, "invalid option: %q: volumes know type, o and device", k)
		}
	}
	if len(options) > 0 && options["device"] == "" {
		return api.Errorf(api.InvalidArgument, "missing device in volume options")
	}
	return nil
}

// volumeOf is a volume as others see it, without its users.
func (e *Engine) volumeOf(name string) (api.Volume, error) {
	v := api.Volume{Name: name, Mountpoint: e.volumeData(name)}
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return v, noVolume(name)
	}
	rec, err := e.volume(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = noVolume(name)
		}
		return v, err
	}
	v.Anonymous, v.Created, v.Labels, v.Options = rec.Anonymous, rec.Created, rec.Labels, rec.Options
	if dir := rec.bound(); dir != "" {
		v.Mountpoint = dir
	}
	if info, err := os.Stat(e.volumeDir(name)); err == nil && v.Created.IsZero() {
		v.Created = info.ModTime().UTC()
	}
	return v, nil
}

func noVolume(name string) error { return api.Errorf(api.NotFound, "no such volume: %s", name) }

// InspectVolume finds a volume by its name.
func (e *Engine) InspectVolume(_ context.Context, name string) (api.Volume, error) {
	v, err := e.volumeOf(name)
	if err != nil {
		return v, err
	}
	users, err := e.volumeUsers()
	v.Users = users[name]
	return v, err
}

// Volumes lists all volumes by their names. One whose record is damaged has nothing but a name.
func (e *Engine) Volumes(ctx context.Context) ([]api.Volume, error) {
	names, err := e.volumeNames()
	if err != nil || len(names) == 0 {
		return nil, err
	}
	users, err := e.volumeUsers()
	if err != nil {
		return nil, err
	}
	var all []api.Volume
	for _, name := range names {
		v, err := e.volumeOf(name)
		if errors.Is(err, api.NotFound) { // half made, or removed meanwhile
			continue
		}
		v.Users = users[name]
		all = append(all, v)
	}
	return all, ctx.Err()
}

// RemoveVolume removes a volume that no container has. Who is killed on the way has removed it, or not.
func (e *Engine) RemoveVolume(_ context.Context, name string) error {
	if _, err := e.volumeOf(name); err != nil && !errors.Is(err, api.Corrupt) {
		return err
	}
	if err := os.Mkdir(e.rootTrash(), 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	gone, err := e.takeVolume(name)
	if err != nil {
		return err
	}
	return tree.Remove(gone)
}

// takeVolume moves a volume away, durably, with no container being made meanwhile.
func (e *Engine) takeVolume(name string) (string, error) {
	still, err := e.meta.Still()
	if err != nil {
		return "", err
	}
	defer still.Release()
	users, err := e.volumeUsers()
	if err != nil {
		return "", err
	}
	if ids := users[name]; len(ids) > 0 {
		return "", api.Errorf(api.Conflict, "remove %s: volume is in use - [%s]", name, strings.Join(ids, ", "))
	}
	gone, err := e.moveVolume(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", noVolume(name)
	}
	if err != nil {
		return "", err
	}
	return gone, atomicfile.SyncDir(filepath.Dir(e.volumeDir(name)))
}

// ExportVolume writes the files of a volume as a tar to a file, or to s.Stdout; ImportVolume adds those of a tar to it.
func (e *Engine) ExportVolume(ctx context.Context, name, file string, s api.Streams) error {
	return e.moveFiles(ctx, "volume export", name, file, s)
}

// ImportVolume unpacks a tar, of a file or from s.Stdin, into a volume. What is there stays, unless the archive has it too.
func (e *Engine) ImportVolume(ctx context.Context, name, file string, s api.Streams) error {
	return e.moveFiles(ctx, "volume import", name, file, s)
}

func (e *Engine) moveFiles(ctx context.Context, op, name, file string, s api.Streams) error {
	v, err := e.volumeOf(name)
	if err != nil {
		return err
	}
	_, err = e.Transfer(ctx, api.TransferRequest{Op: op, Volume: v.Mountpoint, File: file}, s)
	return err
}
