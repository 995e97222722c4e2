package trust

import (
	"errors"
	"fmt"
	"strings"

	"brig/internal/image/ref"
)

// The types of signedIdentity: how the name in a signature must relate to the name that an image was asked for by.
const (
	matchExact             = "matchExact"
	matchRepoDigestOrExact = "matchRepoDigestOrExact"
	matchRepository        = "matchRepository"
	exactReference         = "exactReference"
	exactRepository        = "exactRepository"
	remapIdentity          = "remapIdentity"
	// matchDigestOnly is Brig's own: the signature need not name a repository. What cosign 3 writes does not.
	matchDigestOnly = "matchDigestOnly"
)

// identity is a signedIdentity.
type identity struct {
	kind         string
	reference    string // exactReference
	repository   string // exactRepository
	prefix, sign string // remapIdentity
}

func parseIdentity(b []byte) (identity, error) {
	t, err := typeOf(b)
	if err != nil {
		return identity{}, fmt.Errorf("signedIdentity: %w", err)
	}
	id := identity{kind: t}
	fields := map[string]any{"type": &id.kind}
	var want int
	switch t {
	case matchExact, matchRepoDigestOrExact, matchRepository, matchDigestOnly:
	case exactReference:
		fields["dockerReference"] = &id.reference
	case exactRepository:
		fields["dockerRepository"] = &id.repository
	case remapIdentity:
		fields["prefix"], fields["signedPrefix"] = &id.prefix, &id.sign
	default:
		return id, fmt.Errorf("signedIdentity: unknown type %q", t)
	}
	want = len(fields)
	has, err := object(b, fields)
	if err == nil && len(has) != want {
		err = errors.New("a key is missing")
	}
	if err == nil {
		err = id.check()
	}
	if err != nil {
		return id, fmt.Errorf("signedIdentity %s: %w", t, err)
	}
	return id, nil
}

// check refuses an identity that no signature could have.
func (id identity) check() error {
	switch id.kind {
	case exactReference:
		_, err := parseClaim(id.reference)
		return err
	case exactRepository:
		_, err := ref.Parse(id.repository)
		return err
	case remapIdentity:
		for _, p := range []string{id.prefix, id.sign} {
			if _, err := ref.Parse(p + "/x"); p == "" || err != nil {
				return fmt.Errorf("%q is neither a host nor a namespace nor a repository", p)
			}
		}
	}
	return nil
}

// parseClaim reads a reference that must have a tag or a digest, and not both: no default is put in its place.
func parseClaim(s string) (ref.Ref, error) {
	last := s[strings.LastIndexByte(s, '/')+1:]
	name, _, digested := strings.Cut(last, "@")
	tagged := strings.Contains(name, ":")
	if tagged == digested {
		return ref.Ref{}, fmt.Errorf("%q has no tag and no digest, or both", s)
	}
	return ref.Parse(s)
}

// accepts says why the name in a signature does not go with the name that the image was asked for by; nil: it does.
func (id identity) accepts(s Subject, claimed string) error {
	if id.kind == matchDigestOnly {
		return nil
	}
	if claimed == "" {
		return errors.New("it names no repository (allow that with signedIdentity matchDigestOnly)")
	}
	var asked ref.Ref
	if id.kind != exactReference && id.kind != exactRepository {
		if s.Transport != Docker {
			return fmt.Errorf("it is of %q, and an image from %s has no name to compare", claimed, s.Transport)
		}
		var err error
		if asked, err = ref.Parse(s.Reference); err != nil {
			return err
		}
	}
	ok := false
	switch id.kind {
	case matchExact:
		ok = same(claimed, asked)
	case matchRepoDigestOrExact:
		ok = repoDigestOrExact(claimed, asked)
	case matchRepository:
		ok = sameRepository(claimed, asked.Name())
	case exactReference:
		want, err := parseClaim(id.reference)
		ok = err == nil && same(claimed, want)
	case exactRepository:
		want, err := ref.Parse(id.repository)
		ok = err == nil && sameRepository(claimed, want.Name())
	case remapIdentity:
		mapped, err := id.remap(asked)
		ok = err == nil && repoDigestOrExact(claimed, mapped)
	}
	if !ok {
		return fmt.Errorf("it is of %q, which is not what %s asks for", claimed, id.kind)
	}
	return nil
}

func same(claimed string, want ref.Ref) bool {
	c, err := parseClaim(claimed)
	return err == nil && c == want
}

// repoDigestOrExact: of an image that was asked for by its digest, which the signature has as well, only the repository is compared.
func repoDigestOrExact(claimed string, want ref.Ref) bool {
	c, err := parseClaim(claimed)
	return err == nil && (c == want || want.Digest != "" && c.Name() == want.Name())
}

func sameRepository(claimed, want string) bool {
	c, err := ref.Parse(claimed)
	return err == nil && c.Name() == want
}

// remap puts signedPrefix in the place of prefix, where the name begins with that.
func (id identity) remap(r ref.Ref) (ref.Ref, error) {
	rest, ok := strings.CutPrefix(r.Name(), id.prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return r, nil
	}
	full := r.String()
	return ref.Parse(id.sign + full[len(id.prefix):])
}
