package layout

import (
	"context"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

var _ image.Referring = (*Layout)(nil)

// Referrers implements image.Referring: it looks which entries of index.json have d for their subject.
func (l *Layout) Referrers(ctx context.Context, d digest.Digest) ([]imagespec.Descriptor, error) {
	if l.subjects == nil {
		subjects := map[digest.Digest][]imagespec.Descriptor{}
		for _, e := range l.entries {
			n, err := image.ReadNode(ctx, l, e.Target)
			if err != nil {
				return nil, err
			}
			if n.Subject != nil {
				found := e.Target
				found.ArtifactType, found.Annotations = n.ArtifactType, n.Annotations
				subjects[n.Subject.Digest] = append(subjects[n.Subject.Digest], found)
			}
		}
		l.subjects = subjects
	}
	return l.subjects[d], nil
}

// Tagged implements image.Referring.
func (l *Layout) Tagged(_ context.Context, tag string) (imagespec.Descriptor, error) {
	for _, e := range l.entries {
		if e.Tag == tag {
			return e.Target, nil
		}
	}
	return imagespec.Descriptor{}, api.Errorf(api.NotFound, "%s: nothing in it is called %s", l.where, tag)
}
