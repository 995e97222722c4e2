// Package garbage takes care of the store as a whole: what in it is needed, what is not and may go, how much it takes and may take.
//
// # What is needed
//
// All that is needed is found from few roots (needed.go): the records of images, the records of containers, which keep their layers and not the
// blobs that those came from, and the leases of processes at work. Everything else under --root that is made of blobs and layers may go at
// any time; what dead processes left goes with it (sweep.go).
//
// # Leases
//
// An image in the making has no record yet, so nothing else on the disk says that it counts on a layer that it found there. Who brings
// something in holds a [Lease], a file below ROOT/lease that its holder keeps locked by flock(2) and writes down in what it counts on:
// first it adds a blob or a layer to the lease, then it looks whether it is there. The lease of a dead process is void, since the kernel frees its lock.
//
//	lease, err := stores.Lease(ctx)
//	defer lease.Release()
//	err = lease.Add(stores.Of(img))     // before [content.Store.Has] and [snapshot.Store.Has] are asked
//	… fetch what is missing, take Lock, write the record, release Lock …
//
// A transfer that takes back what it added releases its lease first: a lease protects from its own holder too.
//
// # Who waits for whom
//
// These locks are taken in this order; none is taken while a later one is held:
//
//	ROOT/reserve/.lock      a reservation of space is made or given back (budget.go)
//	ROOT/image/.lock        [Stores.Lock]: a record of an image is published or withdrawn, blobs and layers are removed.
//	                        [Lease.Add] shares it, so that a removal knows every lease
//	ROOT/container/.making  [meta.Store.Still]: while one layer is removed no container is made that may need it
//
// `run` takes none of the first two: its container's record is what protects its layers. A layer that is removed between the moment that
// run read the image's record and the moment that it has written the container's is found missing when the root is prepared.
package garbage

import (
	"context"
	"encoding/json"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/store/content"
	"brig/internal/store/meta"
	"brig/internal/store/snapshot"
)

const maxDocument = 4 << 20 // bytes of an index

// Stores are the three stores below --root.
type Stores struct {
	Root     string
	Content  *content.Store
	Snapshot *snapshot.Store
	Meta     *meta.Store
	// Limit is of what the store may take, in bytes, where that is less than what its settings say; 0: what they say.
	Limit int64
}

// Open names the stores of root. It does no I/O.
func Open(root string) Stores {
	return Stores{Root: root, Content: content.Open(filepath.Join(root, "content")), Snapshot: snapshot.Open(filepath.Join(root, "snapshot")), Meta: meta.Open(root)}
}

// Lock is held while a record of an image is published or withdrawn, and while blobs and layers are removed.
func (s Stores) Lock() (*lock.Lock, error) {
	path, err := s.lockPath()
	if err != nil {
		return nil, err
	}
	return lock.Take(path)
}

func (s Stores) lockPath() (string, error) {
	dir := filepath.Join(s.Root, "image")
	return filepath.Join(dir, ".lock"), atomicfile.MakeDir(dir) // a record that is durable in it needs its name
}

// within takes a lock, unless ctx ends first.
func within(ctx context.Context, take func() (*lock.Lock, error)) (*lock.Lock, error) {
	type result struct {
		l   *lock.Lock
		err error
	}
	done := make(chan result, 1)
	go func() {
		l, err := take()
		done <- result{l, err}
	}()
	select {
	case r := <-done:
		return r.l, r.err
	case <-ctx.Done():
		go func() { // flock(2) cannot be called off
			if r := <-done; r.err == nil {
				r.l.Release()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// Set is a number of blobs, and of unpacked layers by diff ID.
type Set struct {
	Blobs  []digest.Digest
	Layers []digest.Digest
}

// Of lists all that an image consists of.
func (s Stores) Of(img api.Image) Set {
	set := Set{Blobs: []digest.Digest{img.Target.Digest, img.Manifest.Digest, digest.Digest(img.ID)}}
	set.Blobs = append(set.Blobs, s.inner(img.Target)...)
	if img.Trust.Signatures != "" {
		set.Blobs = append(set.Blobs, digest.Digest(img.Trust.Signatures))
	}
	for _, l := range img.Layers {
		set.Blobs = append(set.Blobs, l.Blob.Digest)
		set.Layers = append(set.Layers, digest.Digest(l.DiffID))
	}
	return set
}

// inner lists the indexes in an index: the record of an image knows its target and its manifest, not what lies between.
func (s Stores) inner(target imagespec.Descriptor) []digest.Digest {
	if target.MediaType != imagespec.MediaTypeImageIndex {
		return nil
	}
	b, err := s.Content.Bytes(target.Digest, maxDocument)
	if err != nil {
		return nil
	}
	var index imagespec.Index
	if json.Unmarshal(b, &index) != nil {
		return nil
	}
	var found []digest.Digest
	for _, m := range index.Manifests {
		if m.MediaType == imagespec.MediaTypeImageIndex && s.Content.Has(m.Digest) {
			found = append(found, m.Digest)
		}
	}
	return found
}

// All lists everything in the store. To remove it sweeps what transfers left that were killed; what those have a lease on that are under way stays.
func (s Stores) All() (set Set, err error) {
	if set.Blobs, err = s.Content.Blobs(); err == nil {
		set.Layers, err = s.Snapshot.Layers()
	}
	return set, err
}
