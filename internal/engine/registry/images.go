package registry

import (
	"slices"

	"brig/api"
	"brig/internal/image/ref"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// named is an image that Brig has, with its reference.
type named struct {
	api.Image
	name ref.Ref
}

// images returns the images that a repository shows: those of its full name, else those of its path in whatever registry. Of two with one
// tag the one from docker.io comes first, then the alphabet says.
func (r *Registry) images(repo string) ([]named, error) {
	all, err := r.stores.Meta.Images()
	if err != nil {
		return nil, err
	}
	var found []named
	full := false
	for _, img := range all {
		name, err := ref.Parse(img.Name)
		if err != nil || img.Name == "" {
			continue
		}
		switch {
		case name.Name() == repo:
			if !full {
				found, full = nil, true
			}
			found = append(found, named{img, name})
		case name.Path == repo && !full:
			found = append(found, named{img, name})
		}
	}
	slices.SortStableFunc(found, func(a, b named) int { return rank(a.name) - rank(b.name) })
	return found, nil
}

func rank(name ref.Ref) int {
	if name.Domain == ref.DefaultDomain {
		return 0
	}
	return 1
}

// imageManifest finds a tag or a digest among the images of a repository.
func (r *Registry) imageManifest(repo, tag string, d digest.Digest) (imagespec.Descriptor, bool, error) {
	images, err := r.images(repo)
	if err != nil {
		return imagespec.Descriptor{}, false, err
	}
	for _, img := range images {
		switch {
		case tag != "" && img.name.Tag == tag:
			return img.Target, true, nil
		case d == "" || tag != "":
		case img.Target.Digest == d:
			return img.Target, true, nil
		case img.Manifest.Digest == d:
			return img.Manifest, true, nil
		}
	}
	if tag != "" {
		return imagespec.Descriptor{}, false, nil
	}
	for _, img := range images { // an index in an index: the documents have to be read
		for _, inner := range r.stores.Of(img.Image).Blobs {
			if inner == d && d != digest.Digest(img.ID) && !isLayer(img, d) {
				return imagespec.Descriptor{MediaType: imagespec.MediaTypeImageIndex, Digest: d}, true, nil
			}
		}
	}
	return imagespec.Descriptor{}, false, nil
}

// imageBlob reports whether an image of the repository has the blob.
func (r *Registry) imageBlob(repo string, d digest.Digest) (bool, error) {
	images, err := r.images(repo)
	if err != nil {
		return false, err
	}
	for _, img := range images {
		if isLayer(img, d) || digest.Digest(img.ID) == d {
			return true, nil
		}
	}
	return false, nil
}

func isLayer(img named, d digest.Digest) bool {
	return slices.ContainsFunc(img.Layers, func(l api.Layer) bool { return l.Blob.Digest == d })
}
