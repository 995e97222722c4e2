package transfer

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/archive"
	"brig/internal/image/layout"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/image/trust"
	"brig/internal/store/garbage"
)

// The transports of a copy: skopeo's names, and brig for the store.
const (
	viaRegistry = "docker"
	viaStore    = "brig"
	viaOCIDir   = "oci"
)

// place is one end of a copy.
type place struct {
	transport string
	ref       ref.Ref // docker, and brig where name is one
	path      string  // of an archive or a folder
	name      string  // what the image is called there; brig: as the user names it
}

// String is the place as the user writes it.
func (p place) String() string {
	switch {
	case p.transport == viaRegistry:
		return "docker://" + p.ref.String()
	case p.transport == viaStore || p.name == "":
		return p.transport + ":" + p.path + p.name
	}
	return p.transport + ":" + p.path + ":" + p.name
}

// parsePlace reads TRANSPORT:WHERE.
func parsePlace(s string) (place, error) {
	transport, rest, ok := strings.Cut(s, ":")
	const known = "docker://REFERENCE, docker-archive:FILE[:REFERENCE], oci-archive:FILE[:REFERENCE], oci:FOLDER[:REFERENCE] or brig:REFERENCE"
	p := place{transport: transport}
	switch transport {
	case viaRegistry:
		name, slashes := strings.CutPrefix(rest, "//")
		if !slashes {
			return p, api.Errorf(api.InvalidArgument, "%q: the transport docker is written docker://REFERENCE", s)
		}
		r, err := ref.Parse(name)
		p.ref = r
		return p, err
	case viaStore:
		if rest == "" {
			return p, api.Errorf(api.InvalidArgument, "%q: an image is missing: brig:REFERENCE", s)
		}
		p.name = rest
		return p, nil
	case formatDocker, formatOCI, viaOCIDir:
		p.path, p.name, _ = strings.Cut(rest, ":")
		if p.path == "" {
			return p, api.Errorf(api.InvalidArgument, "%q: a file or folder is missing: %s:PATH[:REFERENCE]", s, transport)
		}
		if strings.ContainsFunc(p.name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return p, api.Errorf(api.InvalidArgument, "%q: a reference has neither spaces nor control characters", s)
		}
		if transport == formatDocker && p.name != "" {
			if _, err := ref.Parse(p.name); err != nil {
				return p, err
			}
		}
		return p, nil
	case "dir", "containers-storage", "docker-daemon", "ostree", "sif", "tarball", "atomic", "openshift":
		return p, api.Errorf(api.Unsupported, "%q: the transport %s is not supported: use %s", s, transport, known)
	}
	if !ok {
		return p, api.Errorf(api.InvalidArgument, "%q has no transport: use %s", s, known)
	}
	return p, api.Errorf(api.InvalidArgument, "%q: there is no transport %q: use %s", s, transport, known)
}

// Copy copies an image from one place to another, both of which the user names with a transport. Its bytes go straight from the one to the
// other: below --root nothing is written, unless the store is the destination.
func (t *Transfer) Copy(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	if len(r.Refs) != 2 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "copy: %d places, want a source and a destination", len(r.Refs))
	}
	platform, err := image.ParsePlatform(r.Platform)
	if err != nil {
		return api.TransferReply{}, err
	}
	from, err := parsePlace(r.Refs[0])
	if err != nil {
		return api.TransferReply{}, err
	}
	to, err := parsePlace(r.Refs[1])
	if err != nil {
		return api.TransferReply{}, err
	}
	if err := checkCopy(r, from, to); err != nil {
		return api.TransferReply{}, err
	}
	show := newOutDisplay(t.Stderr, r.Quiet, "Copying", "Copied", "Already exists")
	src, target, err := t.source(ctx, from, remote.Options{Insecure: r.Insecure, AuthFile: r.AuthFile, CertDir: r.CertDir, Warn: show.warn})
	if err != nil {
		return api.TransferReply{}, err
	}
	if c, ok := src.(image.Lister); ok {
		defer c.Close()
	}
	if to.transport == viaStore {
		return t.copyIn(ctx, src, target, from, to, platform, r.Policy, show)
	}
	if !r.All {
		if target, err = single(ctx, src, target, platform); err != nil {
			return api.TransferReply{}, err
		}
	}
	err = t.copyOut(ctx, src, target, from, to, r, show)
	show.finish()
	if err != nil {
		return api.TransferReply{}, err
	}
	return api.TransferReply{Sent: []api.Sent{sent(to.String(), target)}}, nil
}

// checkCopy refuses what the two ends cannot do together, before anything is asked of the network.
func checkCopy(r api.TransferRequest, from, to place) error {
	switch {
	case r.All && r.Platform != "":
		return api.Errorf(api.InvalidArgument, "copy: --all and --platform: the one asks for all platforms, the other for one")
	case from.transport == viaStore && to.transport == viaStore:
		return api.Errorf(api.InvalidArgument, "copy: both places are in the store: give the image another name with \"brig tag\"")
	case r.All && to.transport == viaStore:
		return api.Errorf(api.Unsupported, "copy: --all: the store keeps one platform of an image: choose it with --platform, or copy to oci:FOLDER")
	case r.All && to.transport == formatDocker:
		return api.Errorf(api.Unsupported, "copy: --all: a docker-archive holds one platform: choose it with --platform, or copy to oci-archive:FILE")
	case r.Referrers && (to.transport == viaStore || to.transport == formatDocker):
		return api.Errorf(api.Unsupported, "copy: --referrers: %s has no room for what refers to an image: copy to docker://, oci-archive: or oci:", to.transport)
	case r.Referrers && (from.transport == viaStore || from.transport == formatDocker):
		return api.Errorf(api.Unsupported, "copy: --referrers: %s knows nothing that refers to an image: copy from docker://, oci-archive: or oci:", from.transport)
	case to.transport == viaRegistry && to.ref.Digest != "":
		return api.Errorf(api.InvalidArgument, "copy: %s: a destination may not have a digest: that is the image's own", to)
	}
	return nil
}

// source opens the place that is copied from and finds the image there.
func (t *Transfer) source(ctx context.Context, p place, o remote.Options) (image.Source, imagespec.Descriptor, error) {
	none := imagespec.Descriptor{}
	switch p.transport {
	case viaRegistry:
		repo, err := remote.Open(ctx, p.ref, o)
		if err != nil {
			return nil, none, err
		}
		target, err := repo.Resolve(ctx)
		return repo, target, err
	case viaStore:
		rec, err := t.find(p.name)
		if err != nil {
			return nil, none, err
		}
		s := &shelf{t}
		if !s.whole(ctx, rec.Target) {
			return s, rec.Manifest, nil
		}
		return s, rec.Target, nil
	}
	var src image.Lister
	if p.transport == viaOCIDir {
		l, err := layout.OpenDir(p.path)
		if err != nil {
			return nil, none, err
		}
		src = l
	} else {
		f, err := os.Open(p.path)
		if err != nil {
			return nil, none, api.Errorf(api.NotFound, "copy: %w", err)
		}
		if info, err := f.Stat(); err == nil && info.IsDir() {
			f.Close()
			return nil, none, api.Errorf(api.InvalidArgument, "copy: %s is a folder: its transport is oci:", p.path)
		}
		if src, err = archive.Open(f, p.transport+" "+p.path, os.TempDir()); err != nil {
			return nil, none, err
		}
	}
	target, err := choose(ctx, src, p.name)
	if err != nil {
		src.Close()
		return nil, none, err
	}
	return src, target, nil
}

// choose finds the entry that the user means: the one of that name, or the only one.
func choose(ctx context.Context, src image.Lister, name string) (imagespec.Descriptor, error) {
	full := ""
	if r, err := ref.Parse(name); err == nil && name != "" {
		full = r.String()
	}
	found := map[digest.Digest]imagespec.Descriptor{}
	var names []string
	for _, e := range src.Entries() {
		switch {
		case name != "" && (e.Tag == name || e.Name != "" && e.Name == full):
			return e.Target, nil
		case image.AboutOther(e.Tag):
			continue
		case e.Tag == "" && e.Name == "": // a referrer, or an image without a name
			n, err := image.ReadNode(ctx, src, e.Target)
			if err != nil {
				return imagespec.Descriptor{}, err
			}
			if n.Subject != nil {
				continue
			}
		}
		found[e.Target.Digest] = e.Target
		names = append(names, label(e))
	}
	if name == "" && len(found) == 1 {
		for _, d := range found {
			return d, nil
		}
	}
	if len(names) == 0 {
		return imagespec.Descriptor{}, api.Errorf(api.NotFound, "%s: there is no image in it", src.Where())
	}
	has := strings.Join(names[:min(len(names), 20)], ", ")
	if name == "" {
		return imagespec.Descriptor{}, api.Errorf(api.InvalidArgument, "%s: it holds several images: name one of %s after the path and a colon", src.Where(), has)
	}
	return imagespec.Descriptor{}, api.Errorf(api.NotFound, "%s: there is no image %s in it; it has %s", src.Where(), name, has)
}

func label(e image.Entry) string {
	switch {
	case e.Tag != "":
		return e.Tag
	case e.Name != "":
		return e.Name
	}
	return e.Target.Digest.String()
}

// single finds the one manifest that is copied: that of the platform, where the target is an index. A manifest is taken as it is, as by
// skopeo, unless a platform was asked for.
func single(ctx context.Context, src image.Source, target imagespec.Descriptor, p image.Platform) (imagespec.Descriptor, error) {
	if !image.IsIndex(target.MediaType) && p == (image.Platform{}) {
		return target, nil
	}
	img, err := image.Resolve(ctx, src, target, p)
	if err != nil {
		if image.IsIndex(target.MediaType) && errors.Is(err, api.NotFound) {
			return target, api.Errorf(api.NotFound, "%w; --all copies all that is in it", err)
		}
		return target, err
	}
	d := img.Manifest
	d.Annotations, d.Platform = nil, nil // of the index, not of the manifest
	return d, nil
}

// copyIn brings an image into the store, as a pull or a load from the same place does.
func (t *Transfer) copyIn(ctx context.Context, src image.Source, target imagespec.Descriptor, from, to place, p image.Platform, policy string, show *display) (api.TransferReply, error) {
	if err := t.stores.EnsureVersion(); err != nil {
		return api.TransferReply{}, err
	}
	judge, err := trust.Open(policy)
	if err != nil {
		return api.TransferReply{}, err
	}
	name, err := ref.Parse(to.name)
	if err != nil {
		return api.TransferReply{}, err
	}
	if name.Digest != "" && name.Digest != target.Digest.String() {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "copy: %s: the image's own digest is %s", to, target.Digest)
	}
	img, err := image.Resolve(ctx, src, target, p)
	if err != nil {
		return api.TransferReply{}, err
	}
	if img.Warning != "" {
		show.warn("image %s: %s", name.Familiar(), img.Warning)
	}
	s, signed := subject(from.ref, target.Digest, img.Manifest.Digest), image.Referring(nil)
	if l, ok := src.(image.Lister); ok {
		s = cameFrom(l, from.path, image.Entry{Target: target})
	} else if signed, ok = src.(image.Referring); !ok {
		return api.TransferReply{}, api.Errorf(api.Unsupported, "copy: %s: it cannot be asked for signatures", from)
	}
	v, err := accept(ctx, judge, s, signed)
	if err != nil {
		return api.TransferReply{}, err
	}
	rec, err := t.ingest(ctx, img, name.String(), show, garbage.Set{}, &v)
	show.finish()
	if err != nil {
		return api.TransferReply{}, err
	}
	return api.TransferReply{Images: []api.Image{rec}, Fresh: true, Sent: []api.Sent{sent(to.String(), rec.Target)}}, nil
}

// copyOut streams an image to a registry, an archive or a folder.
func (t *Transfer) copyOut(ctx context.Context, src image.Source, target imagespec.Descriptor, from, to place, r api.TransferRequest, show *display) (err error) {
	c := newCopier(src, nil, show)
	c.referrers = r.Referrers
	if to.transport == viaRegistry {
		var mount []string
		if from.transport == viaRegistry && from.ref.Domain == to.ref.Domain && from.ref.Path != to.ref.Path {
			mount = []string{from.ref.Path}
		}
		repo, err := remote.Open(ctx, to.ref, remote.Options{Insecure: r.DestInsecure, AuthFile: r.AuthFile, CertDir: r.CertDir, Warn: show.warn, Actions: []string{"pull", "push"}, Mount: mount})
		if err != nil {
			return err
		}
		c.dst = &registrySink{repo: repo, from: func(digest.Digest) []string { return mount }}
		return c.copy(ctx, target, to.ref.Tag)
	}
	out := &layoutSink{where: to.transport + " " + to.path, name: to.name, docker: to.transport == formatDocker, there: map[digest.Digest]bool{}}
	c.dst = out
	if out.docker {
		if err := dockerOnly(ctx, src, target); err != nil {
			return err
		}
	}
	if to.transport == viaOCIDir {
		dir, old, err := createDir(to.path)
		if err != nil {
			return err
		}
		out.out, out.old = dir, old
		if err = c.copy(ctx, target, top); err == nil {
			err = out.finish(ctx)
		}
		if err != nil {
			dir.abort()
			return err
		}
		dir.close()
		return nil
	}
	if info, err := os.Stat(to.path); err == nil && info.Mode().IsRegular() && out.docker {
		return api.Errorf(api.AlreadyExists, "copy: %s exists: an archive cannot be added to: remove it first, or save several images with \"brig save\"", to.path)
	}
	archive, err := createTar(to.path)
	if err != nil {
		return err
	}
	defer archive.abort()
	out.out = archive
	if err := c.copy(ctx, target, top); err != nil {
		return err
	}
	if err := out.finish(ctx); err != nil {
		return err
	}
	return archive.commit()
}

// dockerOnly refuses what docker's archive cannot say: anything but a container image.
func dockerOnly(ctx context.Context, src image.Source, d imagespec.Descriptor) error {
	n, err := image.ReadNode(ctx, src, d)
	if err != nil {
		return err
	}
	if !n.Image() {
		return api.Errorf(api.Unsupported, "%s: %s is not a container image but %q: copy it to oci-archive: or oci:", src.Where(), d.Digest, n.ArtifactType)
	}
	return nil
}
