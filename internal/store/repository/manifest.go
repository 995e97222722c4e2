package repository

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/store/content"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Manifest is the record of a manifest or an index in a repository: what is asked of it without reading its bytes.
type Manifest struct {
	imagespec.Descriptor                 // media type, digest, size; artifact type and annotations as the list of referrers shows them
	Subject              digest.Digest   `json:"subject,omitempty"`
	Needs                []digest.Digest `json:"needs,omitempty"` // config, layers and manifests that it names
	Pushed               time.Time       `json:"pushed,omitzero"`
}

// PutManifest stores the record in place of an earlier one.
func (s *Store) PutManifest(name string, m Manifest) error {
	if err := errors.Join(check(name), content.Check(m.Digest)); err != nil {
		return err
	}
	if m.Subject != "" {
		if err := content.Check(m.Subject); err != nil {
			return err
		}
		if err := s.mark(name, referrers, m.Subject.String(), m.Digest.String()); err != nil {
			return err
		}
	}
	return s.put(m, name, manifests, m.Digest.String()+suffix)
}

// Manifest returns the record of a manifest.
func (s *Store) Manifest(name string, d digest.Digest) (Manifest, error) {
	var m Manifest
	if err := errors.Join(check(name), content.Check(d)); err != nil {
		return m, err
	}
	err := s.get(&m, name, manifests, d.String()+suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return m, api.Errorf(api.NotFound, "repository %s: no manifest %s", name, d)
	}
	if err == nil && m.Digest != d {
		err = api.Errorf(api.Corrupt, "%s: it is the record of %s", s.path(name, manifests, d.String()+suffix), m.Digest)
	}
	return m, err
}

// RemoveManifest forgets a manifest and the tags that point to it.
func (s *Store) RemoveManifest(name string, d digest.Digest) error {
	m, err := s.Manifest(name, d)
	if err != nil && !errors.Is(err, api.Corrupt) {
		return err
	}
	all, err := s.Tags(name)
	if err != nil {
		return err
	}
	for _, tag := range all {
		if to, err := s.Tag(name, tag); err == nil && to == d {
			if err := s.RemoveTag(name, tag); err != nil && !errors.Is(err, api.NotFound) {
				return err
			}
		}
	}
	if err := s.remove(name, manifests, d.String()+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if content.Check(m.Subject) == nil {
		if err := s.remove(name, referrers, m.Subject.String(), d.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Referrers gives the manifests that have the subject, in the order of their digests, those after a digest that may be empty, until yield has enough. One
// record is in memory at a time.
func (s *Store) Referrers(name string, subject, after digest.Digest, yield func(imagespec.Descriptor) bool) error {
	if err := errors.Join(check(name), content.Check(subject)); err != nil {
		return err
	}
	links, err := s.digests(name, referrers, subject.String())
	if err != nil {
		return err
	}
	slices.Sort(links)
	for _, d := range links {
		if d <= after {
			continue
		}
		m, err := s.Manifest(name, d)
		if errors.Is(err, api.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if m.Subject == subject && !yield(m.Descriptor) {
			return nil
		}
	}
	return nil
}

// tag is the record of a tag.
type tag struct {
	Digest digest.Digest `json:"digest"`
}

// SetTag points a tag to a manifest.
func (s *Store) SetTag(name, t string, d digest.Digest) error {
	if err := errors.Join(check(name), checkTag(t), content.Check(d)); err != nil {
		return err
	}
	return s.put(tag{d}, name, tags, t+suffix)
}

// Tag returns what a tag points to.
func (s *Store) Tag(name, t string) (digest.Digest, error) {
	if err := errors.Join(check(name), checkTag(t)); err != nil {
		return "", err
	}
	var r tag
	err := s.get(&r, name, tags, t+suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return "", noTag(name, t)
	}
	if err == nil && content.Check(r.Digest) != nil {
		err = api.Errorf(api.Corrupt, "%s: not a digest: %q", s.path(name, tags, t+suffix), r.Digest)
	}
	return r.Digest, err
}

// RemoveTag forgets a tag. What it points to stays.
func (s *Store) RemoveTag(name, t string) error {
	if err := errors.Join(check(name), checkTag(t)); err != nil {
		return err
	}
	err := s.remove(name, tags, t+suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return noTag(name, t)
	}
	return err
}

// Tags lists the tags of a repository, in alphabetical order.
func (s *Store) Tags(name string) ([]string, error) {
	if err := check(name); err != nil {
		return nil, err
	}
	entries, err := readNames(s.path(name, tags))
	if err != nil {
		return nil, err
	}
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		if t, ok := strings.CutSuffix(e, suffix); ok && checkTag(t) == nil {
			all = append(all, t)
		}
	}
	slices.Sort(all)
	return all, nil
}

// checkTag refuses what no file may be named by. The grammar is the door's.
func checkTag(t string) error {
	ok := t != "" && len(t) <= 128 && (alphanumeric(t[0]) || t[0] == '_')
	for i := 0; ok && i < len(t); i++ {
		ok = alphanumeric(t[i]) || strings.IndexByte("._-", t[i]) >= 0
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "tag %q: not a tag", t)
	}
	return nil
}

func noTag(name, t string) error {
	return api.Errorf(api.NotFound, "repository %s: no tag %s", name, t)
}
