package engine

import (
	"context"
	"errors"
	"os"
	"time"

	"brig/api"
	"brig/internal/store/sized"
)

// served is how long a reset waits for those who read layers for containers: they end with these, and would write into what is removed.
const served = 10 * time.Second

// Reset ends every container and removes everything of this root and state: containers, images, volumes, the bridge and its rules.
func (e *Engine) Reset(ctx context.Context) error {
	e.sweep(ctx)
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := e.remove(ctx, id, true, true); err != nil && !errors.Is(err, api.NotFound) {
			if err := e.removeBroken(ctx, id); err != nil {
				return err
			}
		}
	}
	if err := e.network.Close(ctx); err != nil {
		return err
	}
	e.snapshot.WaitServed(served)
	if err := e.snapshot.UnmountAll(); err != nil {
		return err
	}
	names, err := e.volumeNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := sized.Detach(e.volumeData(name)); err != nil {
			return err
		}
	}
	if err := e.unmountAll(); err != nil {
		return err
	}
	if err := os.RemoveAll(e.state); err != nil {
		return err
	}
	return os.RemoveAll(e.root)
}
