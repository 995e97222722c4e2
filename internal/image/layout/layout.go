// Package layout reads images from an OCI image layout: a folder, or the same files in an archive.
//
// Which images a layout holds, index.json says. The full name of one is the annotation io.containerd.image.name (docker, containerd,
// BuildKit), else org.opencontainers.image.ref.name where that is more than a tag (skopeo, podman). Symbolic links are followed inside
// the folder only.
package layout

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
)

// containerdName is the annotation of index.json that docker and containerd write a full reference into.
const containerdName = "io.containerd.image.name"

// Files are the files of a layout, by slash-separated path below its root. A missing one is fs.ErrNotExist.
type Files interface {
	Open(path string) (r io.ReadCloser, size int64, err error)
	Close() error
}

// Layout is an open layout.
type Layout struct {
	where   string
	files   Files
	entries []image.Entry

	subjects map[digest.Digest][]imagespec.Descriptor // what refers to what, once it was asked for
}

var _ image.Lister = (*Layout)(nil)

// OpenDir opens a folder.
func OpenDir(dir string) (*Layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, api.Errorf(api.NotFound, "OCI layout: %w", err)
	}
	l, err := New("layout "+dir, folder{root})
	if err != nil {
		root.Close()
		return nil, err
	}
	return l, nil
}

// New reads the index of the layout in files; where names it in messages. Close closes files too.
func New(where string, files Files) (*Layout, error) {
	l := &Layout{where: where, files: files}
	marker, err := l.read(imagespec.ImageLayoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.InvalidArgument, "%s: neither an OCI layout (no file oci-layout) nor an archive of docker save (no file manifest.json)", where)
	}
	var version imagespec.ImageLayout
	if err == nil {
		err = json.Unmarshal(marker, &version)
	}
	if err != nil {
		return nil, api.Errorf(api.Corrupt, "%s: oci-layout: %w", where, err)
	}
	if version.Version != imagespec.ImageLayoutVersion {
		return nil, api.Errorf(api.Unsupported, "%s: OCI layout version %q is not supported, only %s", where, version.Version, imagespec.ImageLayoutVersion)
	}
	index, err := l.read(imagespec.ImageIndexFile)
	if err != nil {
		return nil, api.Errorf(api.Corrupt, "%s: index.json: %w", where, err)
	}
	manifests, err := image.ParseIndex(index)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: index.json: %w", where, err)
	}
	for _, d := range manifests {
		if !image.IsManifest(d.MediaType) && !image.IsIndex(d.MediaType) {
			continue
		}
		name, err := fullName(d.Annotations)
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "%s: index.json: %w", where, err)
		}
		tag := d.Annotations[imagespec.AnnotationRefName]
		d.Annotations = nil // of this layout's index, not of the image
		l.entries = append(l.entries, image.Entry{Name: name, Tag: tag, Target: d})
	}
	return l, nil
}

// fullName finds an image's reference in its annotations; empty where there is none.
func fullName(annotations map[string]string) (string, error) {
	name := annotations[containerdName]
	if name == "" {
		if name = annotations[imagespec.AnnotationRefName]; !strings.ContainsAny(name, "/:") {
			return "", nil // a bare tag of an image whose name nobody knows
		}
	}
	r, err := ref.Parse(name)
	if err != nil {
		return "", err
	}
	return r.String(), nil
}

// Where implements image.Source.
func (l *Layout) Where() string { return l.where }

// Transport is the name of this kind of source in a signature policy.
func (l *Layout) Transport() string {
	if _, dir := l.files.(folder); dir {
		return "oci"
	}
	return "oci-archive"
}

// Entries implements image.Lister.
func (l *Layout) Entries() []image.Entry { return l.entries }

// Close implements image.Lister.
func (l *Layout) Close() error { return l.files.Close() }

// Open implements image.Source.
func (l *Layout) Open(_ context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, api.Errorf(api.Corrupt, "%s: digest %q: %w", l.where, d.Digest, err)
	}
	r, size, err := l.files.Open(imagespec.ImageBlobsDir + "/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.NotFound, "%s: blob %s is missing", l.where, d.Digest)
	}
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: blob %s: %w", l.where, d.Digest, err)
	}
	if size != d.Size {
		r.Close()
		return nil, api.Errorf(api.Corrupt, "%s: blob %s has %d bytes, its descriptor says %d", l.where, d.Digest, size, d.Size)
	}
	return r, nil
}

func (l *Layout) read(name string) ([]byte, error) { return ReadSmall(l.files, name) }

// ReadSmall reads a whole document of at most image.MaxDocument bytes.
func ReadSmall(files Files, name string) ([]byte, error) {
	r, size, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > image.MaxDocument {
		return nil, api.Errorf(api.Exhausted, "%s has %d bytes, more than the %d that are accepted", name, size, image.MaxDocument)
	}
	return io.ReadAll(io.LimitReader(r, image.MaxDocument))
}

// folder is a layout's folder on disk.
type folder struct{ root *os.Root }

// Open refuses what is not a regular file, and does not wait for the writer of a FIFO.
func (f folder) Open(name string) (io.ReadCloser, int64, error) {
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = api.Errorf(api.Corrupt, "%s is not a regular file", name)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func (f folder) Close() error { return f.root.Close() }
