package transfer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/store/content"
)

// files is where a layout is written: a folder or a tar. Each name is put once.
type files interface {
	put(ctx context.Context, name string, size int64, r io.Reader) error
}

// layoutSink makes an OCI layout. Its index.json comes last, so that a layout which was not finished names nothing that it lacks.
type layoutSink struct {
	where  string
	out    files
	old    []imagespec.Descriptor // entries that were there before, as in a folder
	docker bool                   // with manifest.json, for docker before version 25 and podman
	name   string                 // what the image is called in it, as the user wrote it

	there  map[digest.Digest]bool
	named  []imagespec.Descriptor
	loose  []imagespec.Descriptor // manifests with a subject: an index lists them, or nobody finds them
	images []*image.Node
}

func (s *layoutSink) Where() string { return s.where }
func (s *layoutSink) foreign() bool { return false }
func (s *layoutSink) lanes() int    { return 1 } // a tar is written from front to back

// has: of a manifest that is there in a folder, the blobs are looked at one by one.
func (s *layoutSink) has(context.Context, imagespec.Descriptor) (bool, error) { return false, nil }

func (s *layoutSink) blob(ctx context.Context, d imagespec.Descriptor, open remote.Opener, count func(int)) (remote.Outcome, error) {
	if s.have(d) {
		return remote.Outcome{Existed: true}, nil
	}
	r, err := open(ctx, 0)
	if err != nil {
		return remote.Outcome{}, err
	}
	defer r.Close()
	if err := s.out.put(ctx, blobPath(d.Digest), d.Size, counted{r, count}); err != nil {
		return remote.Outcome{}, err
	}
	s.there[d.Digest] = true
	return remote.Outcome{}, nil
}

// have reports whether a blob is there, this run's or an earlier one's in the same folder.
func (s *layoutSink) have(d imagespec.Descriptor) bool {
	if s.there[d.Digest] {
		return true
	}
	dir, ok := s.out.(*dirFiles)
	return ok && dir.whole(d)
}

func (s *layoutSink) manifest(ctx context.Context, n *image.Node, tag string) error {
	d := n.Descriptor
	if err := content.Check(d.Digest); err != nil {
		return err
	}
	if !s.have(d) {
		if err := s.out.put(ctx, blobPath(d.Digest), d.Size, bytes.NewReader(n.Bytes)); err != nil {
			return err
		}
		s.there[d.Digest] = true
	}
	entry := imagespec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	switch {
	case tag == "" && n.Subject != nil:
		entry.ArtifactType = n.ArtifactType
		s.loose = append(s.loose, entry)
	case tag == "":
	default:
		if !n.Index {
			entry.Platform = d.Platform
		}
		s.named = append(s.named, s.call(entry, tag))
		s.images = append(s.images, n)
	}
	return nil
}

// top is the tag of the copied image itself, which [layoutSink.call] turns into the name that the user gave it.
const top = "\x00"

// call writes a name into a descriptor, where docker and containerd look for it, and where skopeo and podman do.
func (s *layoutSink) call(d imagespec.Descriptor, tag string) imagespec.Descriptor {
	d.Annotations = map[string]string{}
	if tag != top {
		d.Annotations[imagespec.AnnotationRefName] = tag
		return d
	}
	if s.name == "" {
		d.Annotations = nil
		return d
	}
	d.Annotations[imagespec.AnnotationRefName] = s.name
	if name, err := ref.Parse(s.name); err == nil && name.Tag != "" && (s.docker || strings.ContainsAny(s.name, "/:")) {
		d.Annotations[containerName] = name.String()
		if s.docker {
			d.Annotations[imagespec.AnnotationRefName] = name.Tag
		}
	}
	return d
}

// finish writes the documents that make a layout of the blobs.
func (s *layoutSink) finish(ctx context.Context) error {
	all := s.old
	for _, d := range append(s.named, s.loose...) {
		all = add(all, d)
	}
	if len(all) > image.MaxIndexEntries {
		return api.Errorf(api.Exhausted, "%s: %d entries, more than the %d that an index may have", s.where, len(all), image.MaxIndexEntries)
	}
	docs := map[string]any{
		imagespec.ImageIndexFile:  imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: all},
		imagespec.ImageLayoutFile: imagespec.ImageLayout{Version: imagespec.ImageLayoutVersion},
	}
	if s.docker {
		docs["manifest.json"] = s.items()
	}
	return putDocuments(ctx, s.out, docs)
}

// putDocuments writes the files beside the blobs, the index last: it makes the images known.
func putDocuments(ctx context.Context, out files, docs map[string]any) error {
	for _, name := range []string{imagespec.ImageLayoutFile, "manifest.json", imagespec.ImageIndexFile} {
		v, ok := docs[name]
		if !ok {
			continue
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := out.put(ctx, name, int64(len(b)), bytes.NewReader(b)); err != nil {
			return err
		}
	}
	return nil
}

// add puts an entry into an index, in place of one with the same name, or of the same one without a name.
func add(all []imagespec.Descriptor, d imagespec.Descriptor) []imagespec.Descriptor {
	out := make([]imagespec.Descriptor, 0, len(all)+1)
	for _, o := range all {
		a, b := o.Annotations[imagespec.AnnotationRefName], d.Annotations[imagespec.AnnotationRefName]
		if a != b || a == "" && o.Digest != d.Digest {
			out = append(out, o)
		}
	}
	return append(out, d)
}

// dockerItem is an element of manifest.json: docker's image specification 1.2.
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (s *layoutSink) items() []dockerItem {
	items := []dockerItem{}
	for _, n := range s.images {
		it := dockerItem{Config: blobPath(n.Config.Digest), Layers: []string{}}
		for _, l := range n.Layers {
			it.Layers = append(it.Layers, blobPath(l.Digest))
		}
		if name, err := ref.Parse(s.name); err == nil && s.name != "" {
			it.RepoTags = []string{name.Familiar()}
		}
		items = append(items, it)
	}
	return items
}

// tarFiles is an archive. It is written beside its place and moves there when it is whole; what is no regular file, a pipe for example,
// is written to directly.
type tarFiles struct {
	name string
	f    *os.File // nil: somebody else's stream
	temp bool     // f is not at its place yet
	buf  *bufio.Writer
	w    *tar.Writer
	dirs map[string]bool
}

// newTar writes an archive to a stream.
func newTar(out io.Writer) *tarFiles {
	buf := bufio.NewWriterSize(out, 256<<10)
	return &tarFiles{buf: buf, w: tar.NewWriter(buf), dirs: map[string]bool{".": true}}
}

// createTar writes an archive to a file.
func createTar(name string) (*tarFiles, error) {
	var f *os.File
	temp := false
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return nil, api.Errorf(api.InvalidArgument, "%s is a folder; an archive is a file (a folder is written as a layout: oci-dir of brig save, oci: of brig copy)", name)
	case err == nil && !info.Mode().IsRegular():
		if f, err = os.OpenFile(name, os.O_WRONLY, 0); err != nil {
			return nil, err
		}
		if isTerminal(f) {
			f.Close()
			return nil, api.Errorf(api.InvalidArgument, "%s: refusing to write an archive to a terminal", name)
		}
	default:
		if f, err = os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"."); err != nil {
			return nil, err
		}
		temp = true
	}
	t := newTar(f)
	t.name, t.f, t.temp = name, f, temp
	return t, nil
}

func (t *tarFiles) put(ctx context.Context, name string, size int64, r io.Reader) error {
	if err := t.dir(path.Dir(name)); err != nil {
		return err
	}
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	n, err := io.Copy(t.w, reading{ctx, r})
	if err == nil && n != size {
		err = api.Errorf(api.Corrupt, "%s: %d bytes instead of %d", name, n, size)
	}
	return err
}

// dir writes a folder's header before its first file.
func (t *tarFiles) dir(name string) error {
	if t.dirs[name] {
		return nil
	}
	if err := t.dir(path.Dir(name)); err != nil {
		return err
	}
	t.dirs[name] = true
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, Format: tar.FormatUSTAR})
}

// end finishes the archive.
func (t *tarFiles) end() error {
	if err := t.w.Close(); err != nil {
		return err
	}
	return t.buf.Flush()
}

// commit finishes the archive and puts it in its place.
func (t *tarFiles) commit() error {
	defer t.abort()
	err := t.end()
	if cerr := t.f.Close(); err == nil {
		err = cerr
	}
	if err == nil && t.temp {
		err = os.Rename(t.f.Name(), t.name)
	}
	if err == nil {
		t.f = nil
	}
	return err
}

// abort drops what has no place yet. After a commit it does nothing.
func (t *tarFiles) abort() {
	if t.f == nil {
		return
	}
	t.f.Close()
	if t.temp {
		os.Remove(t.f.Name())
	}
	t.f = nil
}

// dirFiles is a layout's folder. A file appears whole, and no symbolic link in the folder leads out of it.
type dirFiles struct {
	root *os.Root
	made string // the folder, if it is new
	new  []string
	lock *os.File // one program at a time changes the index
}

// createDir opens a folder for a layout, making it where it is missing, and reads the entries that it has.
func createDir(dir string) (*dirFiles, []imagespec.Descriptor, error) {
	d := &dirFiles{}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		d.made = dir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	d.root = root
	old, err := d.entries(dir)
	if err != nil {
		d.close()
		return nil, nil, err
	}
	return d, old, nil
}

// entries locks the folder and reads the index that it has.
func (d *dirFiles) entries(dir string) ([]imagespec.Descriptor, error) {
	var err error
	if d.lock, err = os.Open(dir); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, api.Errorf(api.Conflict, "folder %s: another program is writing to it: %w", dir, err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	if _, err := d.root.Stat(imagespec.ImageLayoutFile); err != nil {
		return nil, api.Errorf(api.AlreadyExists, "folder %s is neither empty nor an OCI layout", dir)
	}
	f, err := d.root.Open(imagespec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, image.MaxDocument+1))
	if err == nil && len(b) > image.MaxDocument {
		err = api.Errorf(api.Exhausted, "longer than %d bytes", image.MaxDocument)
	}
	var old []imagespec.Descriptor
	if err == nil {
		old, err = image.ParseIndex(b)
	}
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "layout %s: index.json: %w", dir, err)
	}
	return old, nil
}

// close ends the writing.
func (d *dirFiles) close() {
	d.root.Close()
	if d.lock != nil {
		d.lock.Close()
	}
}

func (d *dirFiles) put(ctx context.Context, name string, size int64, r io.Reader) error {
	dir := path.Dir(name)
	if err := d.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, serr := d.root.Lstat(name)
	was := serr == nil
	temp := path.Join(dir, ".tmp-"+id.New()[:16])
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, reading{ctx, r})
	if err == nil && n != size {
		err = api.Errorf(api.Corrupt, "%s: %d bytes instead of %d", name, n, size)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		_ = d.root.Remove(temp)
		return err
	}
	if !was {
		d.new = append(d.new, name)
	}
	return nil
}

// whole reports whether the folder has a blob, of the right length and with the right bytes: what an earlier copy left may be older than
// a crash.
func (d *dirFiles) whole(desc imagespec.Descriptor) bool {
	f, err := d.root.Open(blobPath(desc.Digest))
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != desc.Size {
		return false
	}
	v := desc.Digest.Verifier()
	_, err = io.Copy(v, f)
	return err == nil && v.Verified()
}

// abort takes back what was written; other images in the folder stay.
func (d *dirFiles) abort() {
	for _, name := range d.new {
		_ = d.root.Remove(name)
	}
	for _, dir := range []string{"blobs/sha256", "blobs/sha512", "blobs"} { // those that are empty now
		_ = d.root.Remove(dir)
	}
	if d.made != "" {
		os.RemoveAll(d.made)
	}
	d.close()
}
