// Package transfer brings images in and out: pull, push, load, save, copy, import, export and commit; and speaks with registries: login, logout
// and search; and checks and repairs what is in the store. Only brig-image links it.
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
	"brig/internal/base/rootless"
	"brig/internal/store/erofs"
	"brig/internal/store/garbage"
)

// Transfer moves images between one store and the world.
type Transfer struct {
	stores garbage.Stores
	Stdin  *os.File  // load without a file; login: the password
	Stdout io.Writer // results
	Stderr io.Writer // progress and warnings; bars where it is a terminal
	lease  *os.File  // of the process that asks for the transfer, nil: it has none
	layers string    // layersEnv
	packs  func(erofs.Algorithm) bool
	zstd   chan struct{} // has place for parallelZstd layers
	state  string        // folder of --state, "": not given

	lazy   bool              // layers that can be are to be read lazily
	lazyAt map[string]string // where they are mounted, by diff ID
	going  *lazyImage        // what Serve goes on with
}

// How layers are kept: as images where this kernel mounts them and they are large enough, else as folders, unless $BRIG_LAYERS asks for one of them.
const (
	layersEnv       = "BRIG_LAYERS"
	layersAsFolders = "folder"
	layersAsImages  = "image"
)

// New names the store below root, the folder of --root.
func New(root string) *Transfer {
	t := &Transfer{stores: garbage.Open(root), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, layers: os.Getenv(layersEnv), zstd: make(chan struct{}, parallelZstd)}
	probe := func(a erofs.Algorithm) func() bool {
		return sync.OnceValue(func() bool { return t.stores.Snapshot.Packs(a) })
	}
	deflate, lz4 := probe(erofs.Deflate), probe(erofs.LZ4)
	t.packs = func(a erofs.Algorithm) bool {
		if a == erofs.LZ4 {
			return lz4()
		}
		return deflate()
	}
	return t
}

// In gives the folder of --state, where layers are mounted that are images. Only export needs it.
func (t *Transfer) In(state string) *Transfer {
	t.stores.Snapshot, t.state = t.stores.Snapshot.In(state), state
	return t
}

// Under lets what comes in be under a lease that another process goes on holding.
func (t *Transfer) Under(lease *os.File) *Transfer {
	t.lease = lease
	return t
}

// Do carries out a request. On error the reply is empty.
func (t *Transfer) Do(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	switch t.layers {
	case "", "auto", layersAsFolders, layersAsImages:
	default:
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "%s=%s: want auto, %s or %s", layersEnv, t.layers, layersAsFolders, layersAsImages)
	}
	if t.layers == layersAsImages && rootless.Active() {
		return api.TransferReply{}, api.Errorf(api.Unsupported, "%s=%s: the kernel mounts layers that are images for root only: leave it out", layersEnv, t.layers)
	}
	t.stores.Limit = r.StoreLimit
	switch r.Op { // receive and copy know later whether they may
	case "pull", "load", "import", "commit":
		if err := t.stores.EnsureVersion(); err != nil {
			return api.TransferReply{}, err
		}
	}
	switch r.Op {
	case "pull":
		t.lazy = r.Lazy
		reply, err := t.Pull(ctx, r)
		reply.Lazy = t.lazyAt
		return reply, err
	case "push":
		return t.Push(ctx, r)
	case "load":
		return t.Load(ctx, r)
	case "save":
		return t.Save(ctx, r)
	case "copy":
		return t.Copy(ctx, r)
	case "receive":
		return t.Receive(ctx, r)
	case "login":
		return t.Login(ctx, r)
	case "logout":
		return t.Logout(ctx, r)
	case "search":
		return t.Search(ctx, r)
	case "import":
		return t.Import(ctx, r)
	case "export":
		return t.Export(ctx, r)
	case "volume export":
		return api.TransferReply{}, t.ExportVolume(ctx, r)
	case "volume import":
		return api.TransferReply{}, t.ImportVolume(ctx, r)
	case "commit":
		return t.Commit(ctx, r)
	case "cp":
		return t.CopyFiles(ctx, r)
	case "check":
		return t.Check(ctx, r)
	case "verify":
		return t.Verify(ctx, r)
	case "trust":
		return t.ShowTrust(r)
	case "cdi":
		return t.DeviceEdits(r)
	default:
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "transfer %q: want pull, push, load, save, copy, receive, import, export, commit, cp, login, logout, search, check, verify, trust, cdi, volume export or volume import", r.Op)
	}
}
