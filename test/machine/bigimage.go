package machine

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// bigSteps are the packages that each layer of the big image adds to the one below: a Debian, a compiler and Python, much that is compressed
// already (sound), and many small pictures. Together four layers, 592 MB in 16,900 files and 3,400 links, 320 MB as gzip.
var bigSteps = [][]string{
	nil, // minbase itself
	{"python3", "gcc", "libc6-dev"},
	{"fluid-soundfont-gm"},
	{"oxygen-icon-theme"},
}

// The compressors that make nearly all layers there are, each at its default level.
const (
	GoGzip  = "go"  // compress/gzip: docker build, BuildKit
	GNUGzip = "gnu" // gzip(1), the match finder of zlib
	PGzip   = "pgz" // klauspost/pgzip in blocks of a megabyte: podman, buildah, skopeo; here skopeo's own
	Mixed   = "mixed"
)

// mix is the compressor of each layer of a Mixed image.
var mix = []string{GoGzip, PGzip, GNUGzip, GoGzip}

// BigImage makes, or finds in the folder cache, an OCI layout of the big image (bigSteps), tagged latest. how is one of the compressors,
// or Mixed. The first time takes two to three minutes, a package mirror and 2 GB in cache; another compressor takes half of a minute more.
func BigImage(cache, how string) (layout string, err error) {
	compressors := mix
	if how != Mixed {
		compressors = slices.Repeat([]string{how}, len(bigSteps))
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return "", err
	}
	layout = filepath.Join(cache, "big-"+how)
	if _, err := os.Stat(layout); err == nil {
		return layout, nil
	}
	layers, err := bigLayers(cache)
	if err != nil {
		return "", err
	}
	tmp := fmt.Sprintf("%s.%d", layout, os.Getpid())
	defer os.RemoveAll(tmp)
	made := make([]Layer, len(layers))
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i, path := range layers {
		g.Go(func() (err error) {
			made[i], err = AddLayer(tmp, path, compressors[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	if _, err := WriteImage(tmp, "latest", made); err != nil {
		return "", err
	}
	return layout, os.Rename(tmp, layout)
}

// bigLayers makes the uncompressed layers of the big image.
func bigLayers(cache string) ([]string, error) {
	dir := filepath.Join(cache, "big-layers")
	var paths []string
	for i := range bigSteps {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%d.tar", i)))
	}
	if _, err := os.Stat(dir); err == nil {
		return paths, nil
	}
	tmp := fmt.Sprintf("%s.%d", dir, os.Getpid())
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	whole := func(i int) string { return filepath.Join(tmp, fmt.Sprintf("whole-%d.tar", i)) }
	args := []string{"--quiet", "--variant=minbase", "--format=null"}
	for i, packages := range bigSteps {
		if packages != nil {
			// In the chroot: apt with mmdebstrap's configuration, from outside, has the machine's own dpkg unpack.
			args = append(args, `--customize-hook=chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends `+
				strings.Join(packages, " ")+` >/dev/null && chroot "$1" sh -c 'apt-get clean && rm -f /var/log/apt/* /var/log/*.log'`)
		}
		args = append(args, `--customize-hook=tar -C "$1" --sort=name --numeric-owner --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* --exclude=./run/* --exclude=./tmp/*`+
			` --exclude=./var/lib/apt/lists/* --exclude=./var/cache/apt/* --exclude=./etc/resolv.conf --exclude=./etc/hostname --exclude=./etc/apt/apt.conf.d/00mmdebstrap -cf `+whole(i)+` .`)
	}
	out, err := exec.Command("mmdebstrap", append(args, "bookworm", "/dev/null")...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("mmdebstrap: %w: %s", err, strings.TrimSpace(string(out)))
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i := range bigSteps {
		g.Go(func() error {
			below := ""
			if i > 0 {
				below = whole(i - 1)
			}
			return tarDiff(filepath.Join(tmp, filepath.Base(paths[i])), whole(i), below)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range bigSteps {
		os.Remove(whole(i))
	}
	return paths, os.Rename(tmp, dir)
}

// Layer is one layer in a layout.
type Layer struct {
	Blob   imagespec.Descriptor
	DiffID digest.Digest
}

// AddLayer compresses an uncompressed layer into the blobs of the OCI layout dir.
func AddLayer(dir, path, compressor string) (Layer, error) {
	in, err := os.Open(path)
	if err != nil {
		return Layer{}, err
	}
	defer in.Close()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return Layer{}, err
	}
	plain := sha256.New()
	if _, err := io.Copy(plain, in); err != nil {
		return Layer{}, err
	}
	diffID := digest.NewDigest(digest.SHA256, plain)
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return Layer{}, err
	}
	tmp, err := os.CreateTemp(blobs, ".new")
	if err != nil {
		return Layer{}, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	packed := sha256.New()
	out := io.MultiWriter(tmp, packed)
	switch compressor {
	case GoGzip:
		z := gzip.NewWriter(out)
		if _, err = io.Copy(z, in); err == nil {
			err = z.Close()
		}
	case GNUGzip:
		cmd := exec.Command("gzip", "-n")
		cmd.Stdin, cmd.Stdout = in, out
		err = cmd.Run()
	case PGzip:
		err = pgzip(out, in, dir, diffID)
	default:
		err = fmt.Errorf("compressor %q: want %s, %s or %s", compressor, GoGzip, GNUGzip, PGzip)
	}
	if err != nil {
		return Layer{}, fmt.Errorf("compress %s: %w", path, err)
	}
	info, err := tmp.Stat()
	if err != nil {
		return Layer{}, err
	}
	d := digest.NewDigest(digest.SHA256, packed)
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return Layer{}, err
	}
	return Layer{imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayerGzip, Digest: d, Size: info.Size()}, diffID},
		os.Rename(tmp.Name(), filepath.Join(blobs, d.Encoded()))
}

// pgzip has skopeo compress one layer, as podman and buildah do it when they push.
func pgzip(w io.Writer, layer *os.File, dir string, diffID digest.Digest) error {
	tmp, err := os.MkdirTemp(dir, ".pgzip")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	blobs := filepath.Join(tmp, "in", "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	if err := os.Link(layer.Name(), filepath.Join(blobs, diffID.Encoded())); err != nil {
		return err
	}
	info, err := layer.Stat()
	if err != nil {
		return err
	}
	m, err := WriteImage(filepath.Join(tmp, "in"), "x", []Layer{{imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayer, Digest: diffID, Size: info.Size()}, diffID}})
	if err != nil {
		return err
	}
	out, err := exec.Command("skopeo", "copy", "-q", "--insecure-policy", "--dest-compress", "--dest-compress-format", "gzip",
		"oci:"+filepath.Join(tmp, "in")+":x", "dir:"+filepath.Join(tmp, "out")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("skopeo copy: %w: %s", err, strings.TrimSpace(string(out)))
	}
	data, err := os.ReadFile(filepath.Join(tmp, "out", "manifest.json"))
	if err != nil {
		return err
	}
	var packed imagespec.Manifest
	if err := json.Unmarshal(data, &packed); err != nil {
		return err
	}
	if len(packed.Layers) != 1 || packed.Layers[0].Digest == m.Layers[0].Digest {
		return fmt.Errorf("skopeo copied a layer and did not compress it")
	}
	f, err := os.Open(filepath.Join(tmp, "out", packed.Layers[0].Digest.Encoded()))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// WriteImage adds an image of these layers, which are in the OCI layout dir, to it under a tag.
func WriteImage(dir, tag string, layers []Layer) (imagespec.Manifest, error) {
	config := imagespec.Image{
		Platform: imagespec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   imagespec.ImageConfig{Cmd: []string{"/bin/bash"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		RootFS:   imagespec.RootFS{Type: "layers"},
	}
	manifest := imagespec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		config.History = append(config.History, imagespec.History{CreatedBy: "apt-get install"})
		manifest.Layers = append(manifest.Layers, l.Blob)
	}
	var err error
	if manifest.Config, err = writeDocument(dir, imagespec.MediaTypeImageConfig, config); err != nil {
		return manifest, err
	}
	d, err := writeDocument(dir, imagespec.MediaTypeImageManifest, manifest)
	if err != nil {
		return manifest, err
	}
	d.Annotations = map[string]string{imagespec.AnnotationRefName: tag}
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
	path := filepath.Join(dir, "index.json")
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &index); err != nil {
			return manifest, fmt.Errorf("%s: %w", path, err)
		}
	}
	index.Manifests = append(slices.DeleteFunc(index.Manifests, func(old imagespec.Descriptor) bool { return old.Annotations[imagespec.AnnotationRefName] == tag }), d)
	data, err := json.Marshal(index)
	if err != nil {
		return manifest, err
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return manifest, err
	}
	return manifest, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// writeDocument stores a value as JSON among the blobs of a layout.
func writeDocument(dir, mediaType string, v any) (imagespec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return imagespec.Descriptor{}, err
	}
	d := digest.FromBytes(data)
	return imagespec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, os.WriteFile(filepath.Join(blobs, d.Encoded()), data, 0o644)
}
