package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/term"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
)

// The formats of a saved image.
const (
	formatDocker  = "docker-archive" // an OCI layout with manifest.json beside it, as docker writes since version 25
	formatOCI     = "oci-archive"
	formatOCIDir  = "oci-dir"
	containerName = "io.containerd.image.name"
)

// Save writes images as an archive or a layout folder. Each is saved for the platform that the store has it for; layers keep their bytes.
func (t *Transfer) Save(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	format := r.Format
	if format == "" {
		format = formatDocker
	}
	if format != formatDocker && format != formatOCI && format != formatOCIDir {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "save: format %q: want %s, %s or %s", format, formatDocker, formatOCI, formatOCIDir)
	}
	if len(r.Refs) == 0 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "save: no image named")
	}
	platform, err := image.ParsePlatform(r.Platform)
	if err != nil {
		return api.TransferReply{}, err
	}
	var images []api.Image
	for _, s := range r.Refs {
		img, err := t.find(s)
		if err != nil {
			return api.TransferReply{}, err
		}
		if have, err := image.ParsePlatform(img.Platform); platform != (image.Platform{}) && (err != nil || !have.Matches(platform)) {
			return api.TransferReply{}, api.Errorf(api.NotFound, "image %s is in the store for %s, not for %s: fetch that one with `brig pull --platform %s`", s, img.Platform, r.Platform, r.Platform)
		}
		images = append(images, img)
	}
	b := bundle{t: t, images: images, docker: format == formatDocker}
	switch {
	case format == formatOCIDir && r.File == "":
		err = api.Errorf(api.InvalidArgument, "save: format %s needs a folder: name it with -o", formatOCIDir)
	case format == formatOCIDir:
		err = b.toDir(ctx, r.File)
	case r.File != "":
		err = intoFile(ctx, "save", r.File, b.toTar)
	default:
		if f, ok := t.Stdout.(*os.File); ok && isTerminal(f) {
			return api.TransferReply{}, api.Errorf(api.InvalidArgument, "save: refusing to write an archive to a terminal: name a file with -o, or redirect standard output")
		}
		err = b.toTar(ctx, t.Stdout)
	}
	if err != nil {
		return api.TransferReply{}, err
	}
	return api.TransferReply{Images: images}, nil
}

// find looks an image up as users name it: a reference, an ID or the beginning of one.
func (t *Transfer) find(s string) (api.Image, error) {
	name, err := ref.Parse(s)
	if err == nil {
		img, ierr := t.stores.Meta.Image(name.String())
		if ierr == nil || !errors.Is(ierr, api.NotFound) {
			return img, ierr
		}
	}
	img, ierr := t.stores.Meta.ImageByID(s)
	if ierr == nil {
		img.Name = "" // saved by its ID, it has no name, as with docker
		return img, nil
	}
	if err != nil && errors.Is(ierr, api.NotFound) {
		return api.Image{}, err
	}
	if errors.Is(ierr, api.NotFound) {
		return api.Image{}, api.Errorf(api.NotFound, "no such image: %s", s)
	}
	return api.Image{}, ierr
}

// bundle is a set of images to be written as one layout.
type bundle struct {
	t      *Transfer
	images []api.Image
	docker bool
}

// blobs lists what the layout holds, each once, documents before layers.
func (b *bundle) blobs() []imagespec.Descriptor {
	var all []imagespec.Descriptor
	seen := map[digest.Digest]bool{}
	add := func(d imagespec.Descriptor) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			all = append(all, d)
		}
	}
	for _, img := range b.images {
		add(img.Manifest)
		add(imagespec.Descriptor{Digest: digest.Digest(img.ID), Size: -1})
	}
	for _, img := range b.images {
		for _, l := range img.Layers {
			add(l.Blob)
		}
	}
	return all
}

// documents makes the files beside the blobs.
func (b *bundle) documents() map[string]any {
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: []imagespec.Descriptor{}}
	var items []*dockerItem
	byID := map[string]*dockerItem{}
	for _, img := range b.images {
		d := img.Manifest
		name, err := ref.Parse(img.Name)
		named := img.Name != "" && err == nil && name.Tag != ""
		if named {
			d.Annotations = map[string]string{containerName: name.String(), imagespec.AnnotationRefName: name.Tag}
			if !b.docker {
				d.Annotations[imagespec.AnnotationRefName] = name.String() // skopeo and podman read the name here
			}
		}
		index.Manifests = append(index.Manifests, d)
		it := byID[img.ID]
		if it == nil {
			it = &dockerItem{Config: blobPath(digest.Digest(img.ID)), Layers: []string{}}
			for _, l := range img.Layers {
				it.Layers = append(it.Layers, blobPath(l.Blob.Digest))
			}
			items, byID[img.ID] = append(items, it), it
		}
		if named {
			it.RepoTags = append(it.RepoTags, name.Familiar())
		}
	}
	files := map[string]any{imagespec.ImageLayoutFile: imagespec.ImageLayout{Version: imagespec.ImageLayoutVersion}, imagespec.ImageIndexFile: index}
	if b.docker {
		files["manifest.json"] = items
	}
	return files
}

// blob opens a blob of the store, which verifies it while it is read.
func (b *bundle) blob(d imagespec.Descriptor) (io.ReadCloser, int64, error) {
	size, err := b.t.stores.Content.Size(d.Digest)
	if err != nil {
		return nil, 0, err
	}
	r, err := b.t.stores.Content.Reader(d.Digest)
	return r, size, err
}

// write puts blobs and documents into a tar or a folder.
func (b *bundle) write(ctx context.Context, out files) error {
	for _, d := range b.blobs() {
		r, size, err := b.blob(d)
		if err != nil {
			return err
		}
		err = out.put(ctx, blobPath(d.Digest), size, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return putDocuments(ctx, out, b.documents())
}

// toTar writes the archive to a stream.
func (b *bundle) toTar(ctx context.Context, out io.Writer) error {
	t := newTar(out)
	if err := b.write(ctx, t); err != nil {
		return err
	}
	return t.end()
}

// intoFile has an archive written beside its place and moves it there when it is whole. What is no regular file is written to directly.
func intoFile(ctx context.Context, verb, name string, write func(context.Context, io.Writer) error) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			hint := ""
			if verb == "save" {
				hint = " (a folder is written with --format " + formatOCIDir + ")"
			}
			return api.Errorf(api.InvalidArgument, "%s: %s is a folder; an archive is a file%s", verb, name, hint)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		if isTerminal(f) {
			err = api.Errorf(api.InvalidArgument, "%s: refusing to write an archive to a terminal", verb)
		} else {
			err = write(ctx, f)
		}
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing by that name
	err = write(ctx, f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// toDir writes a layout folder. It must be new or empty: blobs of other images may not be dropped from its index.
func (b *bundle) toDir(ctx context.Context, dir string) error {
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return api.Errorf(api.AlreadyExists, "save: folder %s is not empty", dir)
	}
	d, _, err := createDir(dir)
	if err != nil {
		return err
	}
	if err := b.write(ctx, d); err != nil {
		d.abort()
		return err
	}
	d.close()
	return nil
}

// reading ends with ctx.
type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

func blobPath(d digest.Digest) string {
	return fmt.Sprintf("%s/%s/%s", imagespec.ImageBlobsDir, d.Algorithm(), d.Encoded())
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
