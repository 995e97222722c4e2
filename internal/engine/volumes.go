package engine

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/store/garbage"
	"brig/internal/store/sized"
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
	size, err := checkVolumeOptions(v.Options)
	if err != nil {
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
		rec := volumeRecord{Anonymous: v.Anonymous, Created: time.Now().UTC().Truncate(time.Second), Labels: v.Labels, Options: v.Options, Size: size}
		if err := e.ensureVolume(v.Name, rec, atomicfile.Durable); err != nil {
			return v, err
		}
	}
	return e.volumeOf(v.Name)
}

// checkVolumeOptions knows of the options of docker's local driver those that bind a folder of the host, and the size, podman's o=size=… too, which it returns.
func checkVolumeOptions(options map[string]string) (size int64, err error) {
	bound := false
	for _, k := range slices.Sorted(maps.Keys(options)) {
		v := options[k]
		if k == "o" {
			if rest, ok := strings.CutPrefix(v, "size="); ok {
				k, v = "size", rest
			}
		}
		bound = bound || k != "size"
		switch {
		case k == "size" && size != 0:
			return 0, api.Errorf(api.InvalidArgument, "volume option size is given twice")
		case k == "size":
			if size, err = parseSize(v); err == nil {
				err = sized.Check(size)
			}
			if err != nil {
				return 0, api.Errorf(api.KindOf(err), "volume option size=%s: %w", v, err)
			}
		case k == "device" && filepath.IsAbs(v):
		case k == "type" && (v == "none" || v == "bind"), k == "o" && (v == "bind" || v == "rbind"):
		case k == "device":
			return 0, api.Errorf(api.InvalidArgument, "volume option device=%s: it must be the absolute path of a folder", v)
		case k == "type" || k == "o":
			return 0, api.Errorf(api.Unsupported, "volume option %s=%s is not supported: a volume is a folder of its own, with a size or without, or, with type=none, o=bind and device=PATH, one of the host", k, v)
		default:
			return 0, api.Errorf(api.InvalidArgument, "invalid option: %q: volumes know size, type, o and device", k)
		}
	}
	switch {
	case bound && size > 0:
		return 0, api.Errorf(api.InvalidArgument, "volume option size does not go together with a folder of the host: it is for volumes that are folders of their own")
	case bound && options["device"] == "":
		return 0, api.Errorf(api.InvalidArgument, "missing device in volume options")
	}
	return size, nil
}

// parseSize reads docker's sizes: 1g, 100MB, 10MiB, a number of bytes. Units are powers of 1024.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(s), "bi")
	shift := 0
	if n := len(digits); n > 0 {
		if i := strings.IndexByte("kmgt", digits[n-1]); i >= 0 {
			shift, digits = 10*(i+1), digits[:n-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, api.Errorf(api.InvalidArgument, "%q is no size: use a number with k, m, g or t behind it", s)
	}
	return n << shift, nil
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
	v.Anonymous, v.Created, v.Labels, v.Options, v.Size = rec.Anonymous, rec.Created, rec.Labels, rec.Options, rec.Size
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
	e.note(happenedTo("volume", name, name, "destroy"))
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

// MountVolume has a volume's files be at its Mountpoint. Of most volumes they are there anyhow; one with a size is a file system of its own.
func (e *Engine) MountVolume(_ context.Context, name string) (api.Volume, error) {
	v, err := e.volumeOf(name)
	if err != nil {
		return v, err
	}
	return v, e.readyVolume(name, &volumeRecord{Size: v.Size})
}

// UnmountVolume takes a volume with a size off its place, unless a container that runs has it. It comes back when it is used next.
func (e *Engine) UnmountVolume(ctx context.Context, name string) (api.Volume, error) {
	v, err := e.InspectVolume(ctx, name)
	if err != nil || v.Size == 0 {
		return v, err
	}
	still, err := e.meta.Still() // nobody starts a new one meanwhile
	if err != nil {
		return v, err
	}
	defer still.Release()
	for _, id := range v.Users {
		if e.isRunning(id) {
			return v, api.Errorf(api.Conflict, "volume %s: container %.12s runs and has it: stop it first", name, id)
		}
	}
	return v, sized.Detach(e.volumeData(name))
}

// GrowVolume makes a volume with a size hold more.
func (e *Engine) GrowVolume(ctx context.Context, name, to string) (api.Volume, error) {
	size, err := parseSize(to)
	if err != nil {
		return api.Volume{}, err
	}
	v, err := e.MountVolume(ctx, name)
	if err != nil {
		return v, err
	}
	if v.Size == 0 {
		return v, api.Errorf(api.Unsupported, "volume %s has no size that it could outgrow: sizes are given to new volumes, with `brig volume create --opt size=…`", name)
	}
	if err := sized.Grow(e.volumeImage(name), e.volumeData(name), size); err != nil {
		return v, api.Errorf(api.KindOf(err), "volume %s: %w", name, err)
	}
	rec, err := e.volume(name)
	if err != nil {
		return v, err
	}
	rec.Size, v.Size = size, size
	rec.Options = maps.Clone(rec.Options)
	delete(rec.Options, "o")
	rec.Options["size"] = to
	return v, e.putVolume(name, rec, atomicfile.Durable)
}

func (e *Engine) moveFiles(ctx context.Context, op, name, file string, s api.Streams) error {
	v, err := e.MountVolume(ctx, name)
	if err != nil {
		return err
	}
	_, err = e.Transfer(ctx, api.TransferRequest{Op: op, Volume: v.Mountpoint, File: file}, s)
	return err
}
