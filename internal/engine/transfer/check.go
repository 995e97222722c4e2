package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/image"
	"brig/internal/store/garbage"
	"brig/internal/store/meta"
)

// checkParallel is how many blobs or layers are read at a time.
const checkParallel = 2

// checker looks at all that the store holds: every byte of blobs and layers, every record, every name.
type checker struct {
	t      *Transfer
	report *api.CheckReport
	files  []meta.ImageFile
	refs   map[string]imagespec.Descriptor // of index.json
	named  bool                            // index.json can be read

	mu        sync.Mutex // guards what follows, and report while blobs and layers are read
	badBlobs  map[digest.Digest]bool
	badLayers map[digest.Digest]bool
	seen      map[digest.Digest]bool // layers that were verified with the blobs that they give
	broken    map[string]bool        // paths of the records of images that something is wrong with
}

// Check reads the whole store and tells what is wrong in it. With r.Repair it brings in again what is damaged, from where it came, removes what
// nothing needs, and says what it could not repair. That something is wrong is no error.
func (t *Transfer) Check(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	c := &checker{t: t, report: &api.CheckReport{Problems: []api.Problem{}, Leftovers: []api.Problem{}}}
	reply := api.TransferReply{Check: c.report}
	if _, err := os.Lstat(t.stores.Root); errors.Is(err, os.ErrNotExist) {
		return reply, nil
	}
	if newer := c.small(r.Repair); newer {
		return reply, nil // nothing in it is known
	}
	if err := c.look(ctx); err != nil {
		return api.TransferReply{}, err
	}
	if r.Repair {
		if err := c.repair(ctx, r); err != nil {
			return api.TransferReply{}, err
		}
	}
	order := func(a, b api.Problem) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) }
	slices.SortStableFunc(c.report.Problems, order)
	slices.SortStableFunc(c.report.Leftovers, order)
	return reply, nil
}

func (c *checker) add(p api.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rel, err := filepath.Rel(c.t.stores.Root, p.Path); err == nil && filepath.IsAbs(p.Path) {
		p.Path = rel
	}
	c.report.Problems = append(c.report.Problems, p)
}

// small looks at version and settings, which are repaired at once.
func (c *checker) small(repair bool) (newer bool) {
	s := c.t.stores
	if err := s.CheckVersion(); errors.Is(err, api.Unsupported) {
		c.add(api.Problem{Kind: "version", Name: "version", Path: filepath.Join(s.Root, "version"), Trouble: err.Error(), Advice: "use the newer Brig"})
		return true
	} else if err != nil {
		p := api.Problem{Kind: "version", Name: "version", Path: filepath.Join(s.Root, "version"), Trouble: err.Error()}
		if repair && os.Remove(filepath.Join(s.Root, "version")) == nil && s.EnsureVersion() == nil {
			p.Repaired = "written anew"
		}
		c.add(p)
	}
	if _, err := s.Settings(); err != nil {
		p := api.Problem{Kind: "settings", Name: "settings.json", Path: filepath.Join(s.Root, "settings.json"), Trouble: err.Error(), Advice: "set the limit again with `brig system limit`"}
		if repair && os.Remove(filepath.Join(s.Root, "settings.json")) == nil {
			p.Repaired = "removed: there is no limit until it is set again"
		}
		c.add(p)
	}
	return false
}

// look finds what is wrong. What is removed meanwhile by others is not.
func (c *checker) look(ctx context.Context) error {
	stores := c.t.stores
	c.badBlobs, c.badLayers, c.seen, c.broken = map[digest.Digest]bool{}, map[digest.Digest]bool{}, map[digest.Digest]bool{}, map[string]bool{}
	_, left, err := stores.Leftovers(ctx)
	if err != nil {
		return err
	}
	for _, l := range left {
		c.report.Leftovers = append(c.report.Leftovers, api.Problem{Kind: "leftover", Name: l.Unit, Path: l.Unit, Trouble: fmt.Sprintf("%s, %d bytes", l.What, l.Bytes)})
	}
	all, err := stores.All()
	if err != nil {
		return err
	}
	// What is looked at stays. On a full disk there is no room for a lease: then what is gone is not missed.
	if lease, err := stores.Lease(ctx); err == nil {
		defer lease.Release()
		_ = lease.Add(all)
	}
	if err := c.names(); err != nil {
		return err
	}
	if c.files, err = stores.Meta.ImageFiles(); err != nil {
		return err
	}
	if err := c.blobs(ctx, all.Blobs); err != nil {
		return err
	}
	if err := c.images(ctx); err != nil {
		return err
	}
	if err := c.layers(ctx, all.Layers); err != nil {
		return err
	}
	c.matchNames()
	return c.containers()
}

// names reads index.json and the layout's marker.
func (c *checker) names() error {
	dir := filepath.Join(c.t.stores.Root, "content")
	refs, err := c.t.stores.Content.Refs()
	c.refs, c.named = map[string]imagespec.Descriptor{}, err == nil
	for _, r := range refs {
		c.refs[r.Annotations[imagespec.AnnotationRefName]] = r
	}
	if errors.Is(err, api.Corrupt) {
		c.add(api.Problem{Kind: "name", Name: "index.json", Path: filepath.Join(dir, "index.json"), Trouble: err.Error()})
	} else if err != nil {
		return err
	} else if trouble := indexTrouble(filepath.Join(dir, "index.json")); trouble != "" {
		c.named = false
		c.add(api.Problem{Kind: "name", Name: "index.json", Path: filepath.Join(dir, "index.json"), Trouble: trouble})
	}
	b, err := os.ReadFile(filepath.Join(dir, imagespec.ImageLayoutFile))
	if err == nil && string(b) != layoutMarker {
		c.add(api.Problem{Kind: "name", Name: imagespec.ImageLayoutFile, Path: filepath.Join(dir, imagespec.ImageLayoutFile), Trouble: fmt.Sprintf("it is not %s", layoutMarker)})
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// indexTrouble says what is wrong with an index.json whose digests can be read: a member that no index has, or another value than one has.
func indexTrouble(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "" // there is none yet
	}
	var index imagespec.Index
	var plain bytes.Buffer
	if json.Unmarshal(b, &index) != nil || json.Compact(&plain, b) != nil {
		return "it is no index"
	}
	want, err := json.Marshal(index)
	switch {
	case err != nil || !bytes.Equal(want, plain.Bytes()):
		return "it has members that no index has"
	case index.SchemaVersion != 2 || index.MediaType != imagespec.MediaTypeImageIndex:
		return fmt.Sprintf("its type is %q, version %d", index.MediaType, index.SchemaVersion)
	}
	return ""
}

const layoutMarker = `{"imageLayoutVersion":"1.0.0"}`

// blobs hashes every blob.
func (c *checker) blobs(ctx context.Context, all []digest.Digest) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(checkParallel)
	for _, d := range all {
		g.Go(func() error {
			n, layer, err := c.blob(ctx, d)
			if errors.Is(err, api.NotFound) {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c.mu.Lock()
			c.report.Blobs++
			c.report.Bytes += n
			if layer != "" {
				c.report.Layers++
				c.seen[layer] = true
				c.badLayers[layer] = err != nil
			}
			if err != nil {
				c.badBlobs[d] = true
			}
			c.mu.Unlock()
			if err != nil {
				c.add(api.Problem{Kind: "blob", Name: d.String(), Path: c.blobPath(d), Trouble: err.Error()})
			}
			return nil
		})
	}
	return g.Wait()
}

// blob reads a blob to its end, which verifies it. One that a layer gives is verified with all of that layer.
func (c *checker) blob(ctx context.Context, d digest.Digest) (n int64, layer digest.Digest, err error) {
	hex, given := c.t.stores.Content.Layer(d)
	if !given || c.t.stores.Content.HasFile(d) {
		n, err = c.read(ctx, d)
		return n, "", err
	}
	layer = digest.NewDigestFromEncoded(digest.SHA256, hex)
	blob, n, err := c.t.stores.Snapshot.VerifyPacked(ctx, layer)
	if err == nil && blob != d {
		err = api.Errorf(api.Corrupt, "layer %s gives blob %s, not this one", layer, blob)
	}
	return n, layer, err
}

func (c *checker) blobPath(d digest.Digest) string {
	return filepath.Join(c.t.stores.Root, garbage.BlobUnits, d.Algorithm().String(), d.Encoded())
}

// read reads a blob to its end, which verifies it.
func (c *checker) read(ctx context.Context, d digest.Digest) (int64, error) {
	r, err := c.t.stores.Content.Reader(d)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return io.Copy(io.Discard, stopped{ctx, r})
}

// stopped is a reader that ends with its context.
type stopped struct {
	ctx context.Context
	r   io.Reader
}

func (s stopped) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

// images holds every record against the documents that it was made from.
func (c *checker) images(ctx context.Context) error {
	ids := map[string]bool{}
	for _, f := range c.files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wrong := func(format string, args ...any) {
			c.broken[f.Path] = true
			c.add(api.Problem{Kind: "image", Name: nameOf(f), Path: f.Path, Trouble: fmt.Sprintf(format, args...)})
		}
		if f.Err != nil {
			wrong("%v", f.Err)
			continue
		}
		ids[f.Image.ID] = true
		if !canonical(f) {
			wrong("it was written by no Brig")
			continue
		}
		set := c.t.stores.Of(f.Image)
		missing := false
		for _, d := range set.Blobs {
			if !c.t.stores.Content.Has(d) {
				missing = true
				wrong("its blob %s is missing", d)
			}
			if c.badBlobs[d] {
				c.broken[f.Path] = true
			}
		}
		for _, d := range set.Layers {
			if !c.t.stores.Snapshot.Has(d) {
				missing = true
				wrong("its layer %s is not unpacked", d)
			}
		}
		if missing || c.broken[f.Path] {
			continue
		}
		if err := c.sameAs(ctx, f.Image); err != nil {
			wrong("it is not what its manifest says: %v", err)
		}
	}
	c.report.Images = len(ids)
	return nil
}

// canonical reports whether the file holds just what is written for its record: a bit that was turned may have turned the checksum off.
func canonical(f meta.ImageFile) bool {
	b, err := os.ReadFile(f.Path)
	if err != nil {
		return true //nolint:nilerr // removed meanwhile
	}
	want, err := record.Marshal(f.Image)
	return err == nil && (record.Signed(b) || bytes.Equal(b, want))
}

// sameAs makes the record again from manifest and config.
func (c *checker) sameAs(ctx context.Context, rec api.Image) error {
	p, err := image.ParsePlatform(rec.Platform)
	if err != nil {
		return err
	}
	img, err := image.Resolve(ctx, localSource{c.t, nil}, rec.Manifest, p)
	if err != nil {
		return err
	}
	switch {
	case img.ID.String() != rec.ID:
		return fmt.Errorf("the ID is %s", img.ID)
	case len(img.Layers) != len(rec.Layers):
		return fmt.Errorf("it has %d layers", len(img.Layers))
	}
	for i, l := range img.Layers {
		if l.DiffID != rec.Layers[i].DiffID || l.Blob.Digest != rec.Layers[i].Blob.Digest {
			return fmt.Errorf("layer %d is %s", i+1, l.DiffID)
		}
	}
	want, err := record.Marshal(api.Image{Config: img.Config})
	if err != nil {
		return err
	}
	have, err := record.Marshal(api.Image{Config: rec.Config})
	if err != nil {
		return err
	}
	if !bytes.Equal(want, have) {
		return errors.New("the config is another")
	}
	return nil
}

// nameOf is what a record is called in messages, also one that cannot be read.
func nameOf(f meta.ImageFile) string {
	if f.Err != nil {
		return strings.TrimSuffix(filepath.Base(f.Path), ".json")
	}
	if f.Image.Name == "" {
		return f.Image.ID
	}
	return familiar(f.Image.Name)
}

// layers holds the files of every layer against the blob that they came from. A folder whose blob is not there, because a container alone keeps it, has
// nothing that it could be held against; an image tells by itself.
func (c *checker) layers(ctx context.Context, all []digest.Digest) error {
	blobs := map[digest.Digest]digest.Digest{}
	for _, f := range c.files {
		for _, l := range f.Image.Layers {
			if f.Err == nil && !c.badBlobs[l.Blob.Digest] && c.t.stores.Content.Has(l.Blob.Digest) {
				blobs[digest.Digest(l.DiffID)] = l.Blob.Digest
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(checkParallel)
	for _, d := range all {
		blob, ok := blobs[d]
		if c.seen[d] || !ok && !c.t.stores.Snapshot.Packed(d) {
			continue
		}
		g.Go(func() error {
			err := c.layer(ctx, d, blob)
			if errors.Is(err, api.NotFound) {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c.mu.Lock()
			c.report.Layers++
			if err != nil {
				c.badLayers[d] = true
			}
			c.mu.Unlock()
			if err != nil {
				c.add(api.Problem{Kind: "layer", Name: d.String(), Path: filepath.Join(c.t.stores.Root, garbage.LayerUnit(d)), Trouble: err.Error()})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, f := range c.files {
		for _, l := range f.Image.Layers {
			if f.Err == nil && c.badLayers[digest.Digest(l.DiffID)] {
				c.broken[f.Path] = true
			}
		}
	}
	return nil
}

// layer compares one layer.
func (c *checker) layer(ctx context.Context, diffID, blob digest.Digest) error {
	if c.t.stores.Snapshot.Packed(diffID) {
		_, _, err := c.t.stores.Snapshot.VerifyPacked(ctx, diffID)
		return err
	}
	r, err := c.t.stores.Content.Reader(blob)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, _, err := image.Decompress(stopped{ctx, r})
	if err != nil {
		return err
	}
	defer plain.Close()
	return c.t.stores.Snapshot.VerifyFolder(ctx, diffID, plain)
}

// matchNames holds index.json against the records. Where they are apart because a process was killed between the two that is no damage.
func (c *checker) matchNames() {
	if !c.named {
		return
	}
	leftover := func(name, format string, args ...any) {
		c.report.Leftovers = append(c.report.Leftovers, api.Problem{Kind: "name", Name: name, Path: "content/index.json", Trouble: fmt.Sprintf(format, args...)})
	}
	for name, r := range c.refs {
		of := slices.IndexFunc(c.files, func(f meta.ImageFile) bool { return f.Of(name) })
		there := c.t.stores.Content.Has(r.Digest)
		switch {
		case name == "":
			c.add(api.Problem{Kind: "name", Name: "index.json", Path: "content/index.json", Trouble: fmt.Sprintf("it has %s without a name", r.Digest)})
		case of < 0 && there:
			leftover(name, "a name of no image, half taken off or half given")
		case of < 0:
			c.add(api.Problem{Kind: "name", Name: name, Path: "content/index.json", Trouble: fmt.Sprintf("it names %s, which is not there", r.Digest)})
		case c.files[of].Err != nil:
		case c.files[of].Image.Target.Digest == r.Digest:
			if t := c.files[of].Image.Target; t.MediaType != r.MediaType || t.Size != r.Size {
				c.add(api.Problem{Kind: "name", Name: name, Path: "content/index.json", Trouble: fmt.Sprintf("it says %s, %d bytes; the image's record %s, %d bytes", r.MediaType, r.Size, t.MediaType, t.Size)})
			}
		case there:
			leftover(name, "it names %s, the image's record %s", r.Digest, c.files[of].Image.Target.Digest)
		default:
			c.add(api.Problem{Kind: "name", Name: name, Path: "content/index.json", Trouble: fmt.Sprintf("it names %s, which is not there; the image's record names %s", r.Digest, c.files[of].Image.Target.Digest)})
		}
	}
	for _, f := range c.files {
		if f.Err != nil {
			continue
		}
		key := f.Image.Name
		if key == "" {
			key = f.Image.ID
		}
		if _, ok := c.refs[key]; !ok {
			leftover(key, "the image is not in index.json, half taken off")
		}
	}
}

// nameless begins what is said of a container whose removal took its name and was broken off then.
const nameless = "its name does not lead to it, its ID is "

// containers reads the records of containers, with none being made or removed meanwhile.
func (c *checker) containers() error {
	stores := c.t.stores
	if _, err := os.Lstat(filepath.Join(stores.Root, "container")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	still, err := stores.Meta.Still()
	if err != nil {
		return err
	}
	defer still.Release()
	leased, err := stores.Leased()
	if err != nil {
		return err
	}
	ids, err := stores.Meta.ContainerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		path := filepath.Join(stores.Meta.Dir(id), "record.json")
		rec, ok, err := stores.Meta.Record(id)
		if err != nil {
			c.add(api.Problem{Kind: "container", Name: id, Path: path, Trouble: err.Error(), Advice: "copy what you need from snapshot/active/" + id + "/fs, then remove it with `brig rm -f " + id + "`"})
			continue
		}
		if !ok {
			if _, err := os.Lstat(stores.Meta.Dir(id)); err == nil {
				c.report.Leftovers = append(c.report.Leftovers, api.Problem{Kind: "container", Name: id, Path: "container/" + id, Trouble: "half made or half removed"})
			}
			continue
		}
		c.report.Containers++
		if b, err := os.ReadFile(path); err == nil && !record.Signed(b) {
			if want, err := record.Marshal(rec); err != nil || !bytes.Equal(b, want) {
				c.add(api.Problem{Kind: "container", Name: rec.Name, Path: path, Trouble: "it was written by no Brig"})
			}
		}
		for _, l := range rec.Layers {
			// One that is read while it comes in has a lease; what ran with PullLazy may have ended before it had come in.
			if !stores.Snapshot.Has(digest.Digest(l)) && !leased[digest.Digest(l)] && rec.Spec.Pull != api.PullLazy {
				c.add(api.Problem{Kind: "container", Name: rec.Name, Path: path, Trouble: "its layer " + l + " is not unpacked", Advice: "bring its image, " + rec.ImageName + ", in again with `brig pull`"})
			}
		}
		if to, err := os.Readlink(filepath.Join(stores.Root, "name", rec.Name)); err != nil || filepath.Base(to) != id {
			c.report.Leftovers = append(c.report.Leftovers, api.Problem{
				Kind: "container", Name: rec.Name, Path: "container/" + id,
				Trouble: nameless + id + ": remove it with `brig rm -f " + id + "`, or let --repair give its name back",
			})
		}
	}
	return nil
}
