package engine

import (
	"context"

	"brig/api"
)

// Export writes a container's root file system as a tar to a file, or to s.Stdout where there is none. It takes no lock: what the container changes
// meanwhile is seen or not, and an archive of one that is removed meanwhile is an error.
func (e *Engine) Export(ctx context.Context, name, file string, s api.Streams) error {
	c, err := e.meta.Container(name)
	if err != nil {
		return err
	}
	_, err = e.Transfer(ctx, api.TransferRequest{Op: "export", Container: c.ID, File: file}, s)
	return err
}
