package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/runtime"
	"brig/internal/runtime/boxed"
	"brig/internal/store/meta"
)

// A checkpoint is a folder with one file, beside others of its container. It gets its name when it is whole and on the disk, and the container, which stands still meanwhile, ends after
// that: whoever is killed, there is the container that runs, or what it goes on from, or both.

// checkpointsDir is where a container's checkpoints are, in its folder, unless the user says where.
const checkpointsDir = "checkpoints"

func (e *Engine) checkpointDir(c *api.Container, dir string) string {
	if dir != "" {
		return dir
	}
	return filepath.Join(e.meta.Dir(c.ID), checkpointsDir)
}

// Checkpoint saves what runs in a container under a name.
func (e *Engine) Checkpoint(ctx context.Context, name, checkpoint string, o api.CheckpointOptions) error {
	if err := checkpointName(checkpoint); err != nil {
		return err
	}
	c, ct, l, err := e.runningHeld(ctx, name)
	if err != nil {
		return err
	}
	defer func() { l.Release() }()
	if err := e.savable(&c); err != nil {
		return err
	}
	if err := e.notPaused(&c, "make a checkpoint of it"); err != nil {
		return err
	}
	if c.Spec.AutoRemove && !o.LeaveRunning && o.Dir == "" {
		return api.Errorf(api.Conflict, "container %s is removed when it ends (--rm), and its checkpoints with it: leave it running, or name a folder for the checkpoint", c.Name)
	}
	dir := e.checkpointDir(&c, o.Dir)
	if err := atomicfile.MakeDir(dir); err != nil {
		return err
	}
	to := filepath.Join(dir, checkpoint)
	if _, err := os.Lstat(to); err == nil && !o.Replace {
		return api.Errorf(api.AlreadyExists, "checkpoint with name %s already exists for container %s", checkpoint, c.Name)
	}
	if err := dropHalves(dir, c.ID); err != nil {
		return err
	}
	half := halfMade(dir, checkpoint, c.ID)
	defer dropCheckpoint(half) //nolint:errcheck // the next one has another try
	if err := os.Mkdir(half, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(half, boxed.CheckpointName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var over <-chan error
	err = save(ctx, ct.(runtime.Checkpointer), f, func() error {
		if err := f.Sync(); err != nil {
			return err
		}
		if err := giveName(half, to, o.Replace); err != nil {
			return err
		}
		if o.LeaveRunning {
			return nil
		}
		if err := e.markStopped(&c); err != nil {
			return err
		}
		e.asks(c.ID, "brig saved it in the checkpoint %s and ended it", checkpoint)
		over = e.watch(ctx, ct, c.ID)
		return ct.Signal(ctx, unix.SIGKILL)
	})
	if err != nil {
		return api.Errorf(api.KindOf(err), "checkpoint of container %s: %w", c.Name, err)
	}
	e.note(happened(&c, "checkpoint"))
	if over == nil {
		return nil
	}
	if err := l.Release(); err != nil {
		return err
	}
	return <-over
}

// saveTries is how often a container is asked for its state.
const saveTries = 4

// save writes a container's state to f. A Sentry that was in the middle of handling a packet finds its own state in disorder at times, says so and runs on: it is asked again.
func save(ctx context.Context, ct runtime.Checkpointer, f *os.File, saved func() error) error {
	whole := false
	once := func() error { whole = true; return saved() }
	for try := 1; ; try++ {
		err := ct.Checkpoint(ctx, f, once)
		if err == nil || whole || try == saveTries || api.KindOf(err) != api.Unavailable || ctx.Err() != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
}

// giveName gives a whole checkpoint its name, for good.
func giveName(half, to string, replace bool) error {
	if err := atomicfile.SyncDir(half); err != nil {
		return err
	}
	how := uint(unix.RENAME_NOREPLACE)
	if replace && exists(to) {
		how = unix.RENAME_EXCHANGE
	}
	if err := unix.Renameat2(unix.AT_FDCWD, half, unix.AT_FDCWD, to, how); err != nil {
		return &os.LinkError{Op: "rename", Old: half, New: to, Err: err}
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}

// mostName is how long the name of a checkpoint may be, in bytes: half made, a container's ID is in the file's name too.
const mostName = 128

func checkpointName(name string) error {
	if meta.CheckName(name) != nil || len(name) > mostName {
		return api.Errorf(api.InvalidArgument, "invalid checkpoint ID (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed, at most %d characters", name, mostName)
	}
	return nil
}

// savable refuses containers of levels that save nothing.
func (e *Engine) savable(c *api.Container) error {
	if c.Spec.Pod != "" {
		return api.Errorf(api.Unsupported, "container %s is of a pod: what it shares with others cannot be saved for one", c.Name)
	}
	l, err := e.level(c.Spec.Isolation)
	if err != nil {
		return err
	}
	if _, ok := l.boxed.(boxed.Saver); !ok {
		return api.Errorf(api.Unsupported, "container %s is of isolation level %s: checkpoints are made at level gvisor; `brig-oci checkpoint` makes them with CRIU, of a bundle", c.Name, l.name)
	}
	return nil
}

// Checkpoints are the names of a container's checkpoints.
func (e *Engine) Checkpoints(_ context.Context, name, dir string) ([]string, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return nil, err
	}
	dir = e.checkpointDir(&c, dir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, d := range entries {
		if !strings.HasPrefix(d.Name(), ".") && exists(filepath.Join(dir, d.Name(), boxed.CheckpointName)) {
			names = append(names, d.Name())
		}
	}
	slices.Sort(names)
	return names, err
}

// RemoveCheckpoint removes one.
func (e *Engine) RemoveCheckpoint(_ context.Context, name, checkpoint, dir string) error {
	c, l, err := e.held(name)
	if err != nil {
		return err
	}
	defer l.Release()
	from, err := e.saved(&c, checkpoint, dir)
	if err != nil {
		return err
	}
	dir = filepath.Dir(from)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 1 {
		if err == nil {
			err = api.Errorf(api.Conflict, "the folder %s holds more than the checkpoint: remove it by hand", dir)
		}
		return err
	}
	half := halfMade(filepath.Dir(dir), checkpoint, c.ID)
	if err := dropCheckpoint(half); err != nil {
		return err
	}
	if err := unix.Rename(dir, half); err != nil {
		return &os.LinkError{Op: "rename", Old: dir, New: half, Err: err}
	}
	if err := dropCheckpoint(half); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// halfMade is where a checkpoint is that is being made, or removed.
func halfMade(dir, checkpoint, id string) string {
	return filepath.Join(dir, "."+checkpoint+"."+id)
}

// dropHalves removes what was half made for a container, for who holds its lock: whoever made it is dead.
func dropHalves(dir, id string) error {
	entries, err := os.ReadDir(dir)
	for _, d := range entries {
		if err == nil && strings.HasPrefix(d.Name(), ".") && strings.HasSuffix(d.Name(), "."+id) {
			err = dropCheckpoint(filepath.Join(dir, d.Name()))
		}
	}
	return err
}

// dropCheckpoint removes the folder of a checkpoint and nothing else: it may be the user's.
func dropCheckpoint(dir string) error {
	for _, path := range [...]string{filepath.Join(dir, boxed.CheckpointName), dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// saved is the file of a checkpoint; api.NotFound where there is none of the name.
func (e *Engine) saved(c *api.Container, checkpoint, dir string) (string, error) {
	if err := checkpointName(checkpoint); err != nil {
		return "", err
	}
	path := filepath.Join(e.checkpointDir(c, dir), checkpoint, boxed.CheckpointName)
	if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() {
		return filepath.Abs(path)
	}
	return "", api.Errorf(api.NotFound, "checkpoint %s does not exist for container %s", checkpoint, c.Name)
}

// Restore is Start of a container that goes on from a checkpoint. What runs then has the limits, the rights and the networks that the container has now.
func (e *Engine) Restore(ctx context.Context, name, checkpoint, dir string, a *api.Attach) (*api.Session, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return nil, err
	}
	if err := e.savable(&c); err != nil {
		return nil, err
	}
	from, err := e.saved(&c, checkpoint, dir)
	if err != nil {
		return nil, err
	}
	return e.start(ctx, c.ID, a, from)
}
