package remote

import (
	"context"
	"slices"

	"brig/api"
	"brig/internal/image/ref"
)

// maxTags is how many tags of one repository are taken.
const maxTags = 10_000

// Tags lists the tags of the repository, in order: the registry's answer to GET /v2/NAME/tags/list, page after page. What is no tag is left out.
func (r *Repository) Tags(ctx context.Context) (all []string, err error) {
	_, err = r.each(ctx, func(p *place) error {
		all, err = p.tags(ctx)
		return err
	}, r.resolves)
	return all, err
}

func (p *place) tags(ctx context.Context) ([]string, error) {
	var all []string
	next := "tags/list"
	for range maxPages {
		var answer struct{ Tags []string }
		link, err := p.page(ctx, next, &answer)
		if err != nil {
			return nil, err
		}
		for _, tag := range answer.Tags {
			if ref.ValidTag(tag) {
				all = append(all, tag)
			}
		}
		if len(all) > maxTags {
			break
		}
		if link == "" || link == next {
			slices.Sort(all)
			return slices.Compact(all), nil
		}
		next = link
	}
	return nil, api.Errorf(api.Exhausted, "%s: the repository has more than %d tags, or lists them on more than %d pages: pull those that you need by name", p.at.Name(), maxTags, maxPages)
}
