package engine

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// maxConfig is how long an image's config may be, in bytes: what a transfer lets in.
const maxConfig = 4 << 20

// ImageDetail finds an image as InspectImage does and reads its config.
func (e *Engine) ImageDetail(ctx context.Context, name string) (api.ImageDetail, error) {
	img, err := e.InspectImage(ctx, name)
	if err != nil {
		return api.ImageDetail{}, err
	}
	d := api.ImageDetail{Image: img}
	data, err := e.content.Bytes(digest.Digest(img.ID), maxConfig)
	if err != nil {
		return d, api.Errorf(api.KindOf(err), "image %s: config: %w", familiar(img.Name), err)
	}
	var c struct {
		Author  string              `json:"author"`
		Config  api.ImageExtra      `json:"config"`
		History []imagespec.History `json:"history"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return d, api.Errorf(api.Corrupt, "image %s: config: %w", familiar(img.Name), err)
	}
	d.Author, d.Extra, d.History = c.Author, c.Config, c.History
	all, err := e.meta.Images()
	if err != nil {
		return d, err
	}
	for _, o := range all {
		if o.ID == img.ID && o.Name != "" {
			d.Names = append(d.Names, o.Name)
		}
	}
	slices.Sort(d.Names)
	return d, nil
}
