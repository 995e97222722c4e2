package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/image"
	"brig/internal/image/base"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/image/trust"
	"brig/internal/store/garbage"
	"brig/internal/store/meta"
)

// localSource is the store as a source of images, with another behind it for what it has not got.
type localSource struct {
	t     *Transfer
	other func(context.Context) (image.Source, error) // nil: none
}

var _ image.Source = localSource{}

// Where implements image.Source.
func (s localSource) Where() string { return "the store in " + s.t.stores.Root }

// Open implements image.Source.
func (s localSource) Open(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	if s.other == nil || s.t.stores.Content.Has(d.Digest) {
		return s.t.stores.Content.Reader(d.Digest)
	}
	src, err := s.other(ctx)
	if err != nil {
		return nil, err
	}
	return src.Open(ctx, d)
}

// repair sets right what look found.
func (c *checker) repair(ctx context.Context, r api.TransferRequest) error {
	if err := c.repairMarker(); err != nil {
		return err
	}
	held := c.layersOf(r.Busy)
	for _, f := range c.files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c.broken[f.Path] {
			c.repairImage(ctx, f, held, r)
		}
	}
	c.repairContainerNames()
	l, err := c.t.stores.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	if err := c.repairIndex(); err != nil {
		return err
	}
	_, err = c.t.stores.Sweep(ctx)
	if errors.Is(err, api.Corrupt) { // for want of a record that could not be repaired: it is in the report
		return nil
	}
	if err != nil {
		return err
	}
	for i := range c.report.Leftovers {
		if c.report.Leftovers[i].Kind != "container" {
			c.report.Leftovers[i].Repaired = "removed"
		}
	}
	c.settle()
	return nil
}

// settle looks once more at the problems whose cause something else's repair has removed.
func (c *checker) settle() {
	for i := range c.report.Problems {
		p := &c.report.Problems[i]
		if p.Repaired != "" {
			continue
		}
		switch p.Kind {
		case "blob":
			if d := digest.Digest(p.Name); !c.t.stores.Content.Has(d) {
				p.Repaired = "removed: no image needs it"
			}
		case "layer":
			if d := digest.Digest(p.Name); !c.t.stores.Snapshot.Has(d) {
				p.Repaired = "removed: no image and no container needs it"
			} else if p.Advice == "" {
				p.Advice = "a container alone needs it: pull the container's image and repair again, or remove the container"
			}
		case "container":
			rec, ok, err := c.t.stores.Meta.Record(filepath.Base(filepath.Dir(p.Path)))
			if err != nil || !ok || !strings.Contains(p.Trouble, "is not unpacked") {
				continue
			}
			there := true
			for _, l := range rec.Layers {
				there = there && c.t.stores.Snapshot.Has(digest.Digest(l))
			}
			if there {
				p.Repaired, p.Advice = "its layers are there again", ""
			}
		}
	}
}

// layersOf are the layers that containers run on, by container: they must not be taken from under them.
func (c *checker) layersOf(running []string) map[digest.Digest]string {
	held := map[digest.Digest]string{}
	for _, cid := range running {
		rec, ok, err := c.t.stores.Meta.Record(cid)
		if err != nil || !ok {
			continue
		}
		for _, l := range rec.Layers {
			held[digest.Digest(l)] = rec.Name
		}
	}
	return held
}

// repairImage brings in again what is missing or damaged of an image: from its own blobs where those are sound, else from its registry.
func (c *checker) repairImage(ctx context.Context, f meta.ImageFile, held map[digest.Digest]string, r api.TransferRequest) {
	name, target, platform, err := c.wanted(f)
	var from string
	if err == nil {
		from, err = c.bringAgain(ctx, name, target, platform, f, held, r)
	}
	problems := c.problemsOf(f)
	if err == nil && f.Err == nil { // what it shares with another image is sound now
		set := c.t.stores.Of(f.Image)
		for _, d := range set.Blobs {
			delete(c.badBlobs, d)
		}
		for _, d := range set.Layers {
			delete(c.badLayers, d)
		}
	}
	for _, p := range problems {
		if err == nil {
			p.Repaired, p.Advice = "brought in again from "+from, ""
			continue
		}
		p.Advice = fmt.Sprintf("it could not be brought in again: %v; load or pull the image again, or remove it with `brig rmi -f %s`", err, nameOf(f))
		if f.Err != nil {
			p.Advice = fmt.Sprintf("it could not be brought in again: %v; pull the image again, or remove %s", err, f.Path)
		}
	}
}

// problemsOf are the problems that an image's repair is about.
func (c *checker) problemsOf(f meta.ImageFile) []*api.Problem {
	mine := map[string]bool{nameOf(f): true}
	if f.Err == nil {
		set := c.t.stores.Of(f.Image)
		for _, d := range append(set.Blobs, set.Layers...) {
			mine[d.String()] = true
		}
	}
	var all []*api.Problem
	for i := range c.report.Problems {
		p := &c.report.Problems[i]
		if (p.Kind == "blob" || p.Kind == "layer" || p.Kind == "image") && mine[p.Name] && p.Repaired == "" {
			all = append(all, p)
		}
	}
	return all
}

// wanted is what a record should be of: by itself, or, where it cannot be read, by index.json.
func (c *checker) wanted(f meta.ImageFile) (name string, target imagespec.Descriptor, p image.Platform, err error) {
	for key, d := range c.refs {
		if f.Of(key) {
			name, target = key, bare(d)
		}
	}
	if f.Err == nil {
		if p, err = image.ParsePlatform(f.Image.Platform); err != nil {
			p = image.Platform{}
		}
		name = f.Image.Name
		if target.Digest == "" || !c.t.stores.Content.Has(target.Digest) && !c.badBlobs[target.Digest] {
			target = f.Image.Target
		}
	}
	if strings.HasPrefix(name, "sha256:") {
		name = ""
	}
	if target.Digest == "" {
		return "", target, p, api.Errorf(api.NotFound, "neither its record nor index.json says what it was")
	}
	return name, target, p, nil
}

// bringAgain puts what is damaged aside, fetches it, and puts it back if that fails. It returns where all was found.
func (c *checker) bringAgain(ctx context.Context, name string, target imagespec.Descriptor, p image.Platform, f meta.ImageFile, held map[digest.Digest]string, r api.TransferRequest) (from string, err error) {
	lease, err := c.t.stores.Lease(ctx)
	if err != nil {
		return "", err
	}
	defer lease.Release()
	if f.Err == nil {
		if err := lease.Add(c.t.stores.Of(f.Image)); err != nil {
			return "", err
		}
	}
	aside, err := c.putAside(f, target, held)
	defer func() { aside.end(err != nil) }()
	if err != nil {
		return "", err
	}
	src := otherSourceOf(ctx, name, r.Insecure)
	local := localSource{c.t, src.open}
	defer src.close()
	img, err := image.Resolve(ctx, local, target, p)
	if err != nil {
		return "", err
	}
	show := newDisplay(c.t.Stderr, true, true)
	defer show.finish()
	lease.Release() // what fails is taken back
	rec, err := c.t.ingest(ctx, img, name, show, garbage.Set{}, c.origin(f, name))
	if err != nil {
		return "", err
	}
	if f.Err == nil && f.Image.Short != "" {
		if _, err := c.t.noteShort(rec, f.Image.Short); err != nil {
			return "", err
		}
	}
	if src.used != "" {
		return src.used, nil
	}
	return "the store's own blobs", nil
}

// origin is what the record of an image that is brought in again says of where it came from: what it said. Where that is lost nobody knows: to the signature
// policy a name proves nothing, until a pull finds just that image in the registry.
func (c *checker) origin(f meta.ImageFile, name string) *verdict {
	if f.Err == nil {
		return &verdict{trust: f.Image.Trust, signatures: c.t.kept(f.Image)}
	}
	if r, err := ref.Parse(name); err == nil && base.Is(r) {
		return nil
	}
	return &verdict{trust: api.Trust{Transport: trust.Docker}}
}

// aside is what was moved out of the way.
type aside struct{ moves []moved }

type moved struct {
	from, to string
	back     func() // once it was put back; may be nil
}

// end removes what was put aside, or puts it back where nothing has taken its place.
func (a *aside) end(back bool) {
	for _, m := range a.moves {
		if back {
			if _, err := os.Lstat(m.from); err != nil && os.Rename(m.to, m.from) == nil {
				if m.back != nil {
					m.back()
				}
				continue
			}
		}
		os.RemoveAll(m.to)
	}
}

// putAside moves the damaged pieces of an image away. A layer that a container runs on stays where it is.
func (c *checker) putAside(f meta.ImageFile, target imagespec.Descriptor, held map[digest.Digest]string) (*aside, error) {
	a := &aside{}
	dir := filepath.Join(c.t.stores.Root, garbage.QuarantineUnits)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return a, err
	}
	l, err := c.t.stores.Lock()
	if err != nil {
		return a, err
	}
	defer l.Release()
	set := garbage.Set{Blobs: []digest.Digest{target.Digest}}
	if f.Err == nil {
		of := c.t.stores.Of(f.Image)
		set.Blobs, set.Layers = append(set.Blobs, of.Blobs...), of.Layers
	}
	for d := range c.badBlobs {
		if f.Err != nil { // whose parts are not known
			set.Blobs = append(set.Blobs, d)
		}
	}
	move := func(path string, rename func(to string) error, back func()) error {
		to := filepath.Join(dir, id.New()+".damaged")
		err := rename(to)
		if err == nil {
			a.moves = append(a.moves, moved{path, to, back})
		} else if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	}
	for _, d := range set.Blobs {
		if !c.badBlobs[d] {
			continue
		}
		if hex, ok := c.t.stores.Content.Layer(d); ok && !c.t.stores.Content.HasFile(d) { // blob and layer are one
			c.badLayers[digest.NewDigestFromEncoded(digest.SHA256, hex)] = true
			set.Layers = append(set.Layers, digest.NewDigestFromEncoded(digest.SHA256, hex))
			continue
		}
		path := c.blobPath(d)
		if err := move(path, func(to string) error { return os.Rename(path, to) }, nil); err != nil {
			return a, err
		}
	}
	for _, d := range set.Layers {
		if !c.badLayers[d] {
			continue
		}
		if name := held[d]; name != "" {
			return a, api.Errorf(api.Conflict, "container %s runs on layer %s: stop it first", name, d)
		}
		path := filepath.Join(c.t.stores.Root, garbage.LayerUnit(d))
		gives, err := c.givenBy(d)
		if err != nil {
			return a, err
		}
		back := func() {
			for _, blob := range gives {
				_ = c.t.stores.Content.Derive(blob, path) // else the blob is missing, which the next check says
			}
		}
		if err := move(path, func(to string) error { return c.t.stores.Snapshot.PutAside(d, to) }, back); err != nil {
			return a, err
		}
		for _, blob := range gives {
			if err := c.t.stores.Content.Remove(blob); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

// givenBy lists the blobs that are there by a layer alone. They go with it: the layer may come back by another image, packed from another blob of the
// same files.
func (c *checker) givenBy(layer digest.Digest) (gives []digest.Digest, err error) {
	all, err := c.t.stores.Content.Blobs()
	for _, d := range all {
		if hex, ok := c.t.stores.Content.Layer(d); ok && hex == layer.Encoded() && !c.t.stores.Content.HasFile(d) {
			gives = append(gives, d)
		}
	}
	return gives, err
}

// otherSource is where an image of a name comes from, opened when it is needed.
type otherSource struct {
	open  func(context.Context) (image.Source, error)
	close func()
	used  string // where, if it was needed
}

func otherSourceOf(ctx context.Context, name string, insecure bool) *otherSource {
	o := &otherSource{close: func() {}}
	once := sync.OnceValues(func() (image.Source, error) { // several layers ask at a time
		if name == "" {
			return nil, api.Errorf(api.NotFound, "an image without a name comes from nowhere")
		}
		r, err := ref.Parse(name)
		if err != nil {
			return nil, err
		}
		if base.Is(r) {
			src, _, err := base.Open(r)
			if err != nil {
				return nil, err
			}
			o.close, o.used = func() { src.Close() }, "this program"
			return src, nil
		}
		repo, err := remote.Open(ctx, r, remote.Options{Insecure: insecure})
		if err != nil {
			return nil, err
		}
		o.used = repo.Where()
		return repo, nil
	})
	o.open = func(context.Context) (image.Source, error) { return once() }
	return o
}

// repairMarker writes the layout's marker anew.
func (c *checker) repairMarker() error {
	for i := range c.report.Problems {
		if p := &c.report.Problems[i]; p.Name == imagespec.ImageLayoutFile {
			if err := atomicfile.Write(filepath.Join(c.t.stores.Root, p.Path), []byte(layoutMarker), 0o600, atomicfile.Durable); err != nil {
				return err
			}
			p.Repaired = "written anew"
		}
	}
	return c.moveBadIndex()
}

// moveBadIndex makes room for an index.json that can be read: nothing can be named before.
func (c *checker) moveBadIndex() error {
	if c.named {
		return nil
	}
	l, err := c.t.stores.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	path := filepath.Join(c.t.stores.Root, "content", "index.json")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// repairIndex says of the names' problems that they are gone, which Sweep sets right from the records.
func (c *checker) repairIndex() error {
	for i := range c.report.Problems {
		if p := &c.report.Problems[i]; p.Kind == "name" && p.Repaired == "" {
			p.Repaired = "made again from the images' records"
		}
	}
	return nil
}

// repairContainerNames gives containers back the names that do not lead to them any more.
func (c *checker) repairContainerNames() {
	for i := range c.report.Leftovers {
		p := &c.report.Leftovers[i]
		if p.Kind != "container" || !strings.HasPrefix(p.Trouble, nameless) {
			continue
		}
		if err := c.t.stores.Meta.ReserveName(p.Name, filepath.Base(p.Path)); err != nil {
			p.Advice = err.Error()
			continue
		}
		p.Repaired = "the name leads to it again"
	}
}
