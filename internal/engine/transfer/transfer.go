// Package transfer brings images in and out: pull, load, save, import, export and commit. Only brig-image links it.
//
// An image comes in by one way, whatever its source (see ingest.go): layers that are missing are fetched side by side; each is verified,
// stored and unpacked while it arrives; the documents follow; at last, under a short lock, the image gets its name. Until then nothing
// of it can be seen, and a transfer that fails or is cancelled removes what it had added.
package transfer

import (
	"context"
	"io"
	"os"
	"sync"

	"brig/api"
	"brig/internal/store/garbage"
)

// Transfer moves images between one store and the world.
type Transfer struct {
	stores garbage.Stores
	Stdin  *os.File  // load without a file
	Stdout io.Writer // results
	Stderr io.Writer // progress and warnings; bars where it is a terminal
	layers string    // layersEnv
	packs  func() bool
}

// How layers are kept: as images where this kernel mounts them and they are large enough, else as folders, unless $BRIG_LAYERS asks for one of them.
const (
	layersEnv       = "BRIG_LAYERS"
	layersAsFolders = "folder"
	layersAsImages  = "image"
)

// New names the store below root, the folder of --root.
func New(root string) *Transfer {
	t := &Transfer{stores: garbage.Open(root), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, layers: os.Getenv(layersEnv)}
	t.packs = sync.OnceValue(t.stores.Snapshot.Packs)
	return t
}

// In gives the folder of --state, where layers are mounted that are images. Only export needs it.
func (t *Transfer) In(state string) *Transfer {
	t.stores.Snapshot = t.stores.Snapshot.In(state)
	return t
}

// Do carries out a request. On error the reply is empty.
func (t *Transfer) Do(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	switch t.layers {
	case "", "auto", layersAsFolders, layersAsImages:
	default:
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "%s=%s: want auto, %s or %s", layersEnv, t.layers, layersAsFolders, layersAsImages)
	}
	switch r.Op {
	case "pull":
		return t.Pull(ctx, r)
	case "load":
		return t.Load(ctx, r)
	case "save":
		return t.Save(ctx, r)
	case "import":
		return t.Import(ctx, r)
	case "export":
		return t.Export(ctx, r)
	case "commit":
		return t.Commit(ctx, r)
	default:
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "transfer %q: want pull, load, save, import, export or commit", r.Op)
	}
}
