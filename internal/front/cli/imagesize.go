package cli

import (
	"context"
	"strings"
	"time"

	"brig/api"
)

// shows reports whether a format prints a field. That of "json" prints all.
func shows(format, field string) bool {
	return format == "json" || strings.Contains(format, "."+field) || strings.Contains(format, "json .")
}

// shares says what images have in common.
type shares struct {
	images     map[string]int // how many images have a layer, by diff ID
	containers map[string]int // how many containers an image has, by its ID
}

func sharesOf(all []api.Image, containers []api.Container) shares {
	s := shares{map[string]int{}, map[string]int{}}
	counted := map[string]bool{}
	for i := range all {
		if counted[all[i].ID] { // another name of the same
			continue
		}
		counted[all[i].ID] = true
		own := map[string]bool{}
		for _, l := range all[i].Layers {
			if !own[l.DiffID] {
				own[l.DiffID] = true
				s.images[l.DiffID]++
			}
		}
	}
	for i := range containers {
		s.containers[containers[i].Image]++
	}
	return s
}

// bytes is how many bytes of an image's files other images have too.
func (s shares) bytes(img *api.Image) int64 {
	var n int64
	for _, l := range img.Layers {
		if s.images[l.DiffID] > 1 {
			n += l.Size
		}
	}
	return n
}

// bounds are the moments that images must have been made between: docker's filters since, before and until. Zero is no bound.
type bounds struct{ since, before time.Time }

// admit reports whether t lies between them.
func (b bounds) admit(t time.Time) bool {
	return (b.since.IsZero() || t.After(b.since)) && (b.before.IsZero() || t.Before(b.before))
}

// bounds looks up the images that since and before name. Of several the narrowest counts.
func (a *app) bounds(ctx context.Context, f filters, now time.Time) (bounds, error) {
	var b bounds
	for _, v := range f["since"] {
		img, err := a.engine().InspectImage(ctx, v)
		if err != nil {
			return b, err
		}
		if img.Created.After(b.since) {
			b.since = img.Created
		}
	}
	narrow := func(t time.Time) {
		if b.before.IsZero() || t.Before(b.before) {
			b.before = t
		}
	}
	for _, v := range f["before"] {
		img, err := a.engine().InspectImage(ctx, v)
		if err != nil {
			return b, err
		}
		narrow(img.Created)
	}
	for _, v := range f["until"] {
		t, err := parseTime(v, now)
		if err != nil {
			return b, err
		}
		narrow(t)
	}
	return b, nil
}
