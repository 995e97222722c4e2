package trust

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/base/policyfile"
)

// Subject is an image that the policy is asked about.
type Subject struct {
	// Transport is where it comes from: Docker for a registry, else DockerArchive, OCIArchive, OCI or Tarball.
	Transport string
	// Reference is the full name in a registry, or the absolute path of the archive or the folder; empty: standard input.
	Reference string
	// Digests are those that a signature may be about: of the manifest, and of the index that it was found in.
	Digests []digest.Digest
}

func (s Subject) String() string {
	if s.Transport == Docker {
		return "image " + s.Reference
	}
	if s.Reference == "" {
		return "image from " + s.Transport
	}
	return "image from " + s.Transport + ":" + s.Reference
}

// Judge decides by one policy file.
type Judge struct {
	path   string
	policy *Policy
	files  []api.TrustFile // what the decisions so far rest on: the policy first
}

// Open reads the policy that counts, see [policyfile.Find]; it is nil where there is none: then everything is accepted.
func Open(given string) (*Judge, error) {
	path, err := policyfile.Find(given)
	if err != nil || path == "" {
		return nil, err
	}
	b, stamp, err := readFile(path, maxPolicy)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "signature policy %s: %w", path, err)
	}
	p, err := Parse(b)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "signature policy %s: %w", path, err)
	}
	return &Judge{path, p, []api.TrustFile{{Path: path, Stamp: stamp}}}, nil
}

// Files is what a decision rests on that needs no key.
func (j *Judge) Files() []api.TrustFile { return slices.Clone(j.files) }

// Needs reports whether signatures are to be looked for. What the policy rejects whatever its signatures is an error, of kind api.Denied.
func (j *Judge) Needs(s Subject) (bool, error) {
	if s.Reference == "" && s.Transport == Docker && !j.policy.acceptsAll() {
		return false, j.deny(s, "which has more than insecureAcceptAnything", "nobody knows where it came from: pull it again by its name")
	}
	rules, where := j.policy.find(s)
	needs := false
	for _, r := range rules {
		switch {
		case r.kind == typeReject:
			return false, j.deny(s, where, "images from there are rejected")
		case r.unable != "":
			return false, j.deny(s, where, "it wants "+r.unable+", which Brig cannot check")
		case r.kind != typeAccept:
			needs = true
		}
	}
	return needs, nil
}

// Decide returns what the decision rests on, where the image is accepted; else an error of kind api.Denied says what is missing.
func (j *Judge) Decide(s Subject, found []Signature) ([]api.TrustFile, error) {
	if _, err := j.Needs(s); err != nil {
		return nil, err
	}
	rules, where := j.policy.find(s)
	files := slices.Clone(j.files)
	for _, r := range rules {
		if r.kind == typeAccept {
			continue
		}
		keys, read, err := r.keys()
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "signature policy %s: %s: %w", j.path, where, err)
		}
		files = append(files, read...)
		if err := r.satisfied(s, keys, found); err != nil {
			return nil, j.deny(s, where, err.Error())
		}
	}
	return files, nil
}

func (j *Judge) deny(s Subject, where, why string) error {
	return api.Errorf(api.Denied, "%s is rejected by the signature policy (%s, %s): %s", s, j.path, where, why)
}

// keys reads the keys of a requirement.
func (r requirement) keys() ([]crypto.PublicKey, []api.TrustFile, error) {
	var keys []crypto.PublicKey
	var files []api.TrustFile
	for _, p := range r.paths {
		b, stamp, err := readFile(p, maxKey)
		if err != nil {
			return nil, nil, err
		}
		k, err := parseKey(b)
		if err != nil {
			return nil, nil, fmt.Errorf("key %s: %w", p, err)
		}
		keys, files = append(keys, k), append(files, api.TrustFile{Path: p, Stamp: stamp})
	}
	for _, d := range r.data {
		k, err := parseKey(d)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, k)
	}
	return keys, files, nil
}

// satisfied looks for one signature that meets the requirement, else it says what is wrong with those that there are.
func (r requirement) satisfied(s Subject, keys []crypto.PublicKey, found []Signature) error {
	if len(found) == 0 {
		return errors.New("a signature is required, and none was found")
	}
	var reasons []string
	for _, sig := range found[:min(len(found), maxSignatures)] {
		c, err := sig.open(keys)
		if err == nil && !slices.Contains(s.Digests, c.digest) {
			err = fmt.Errorf("it is of another image, %s", c.digest)
		}
		if err == nil {
			err = r.identity.accepts(s, c.name)
		}
		if err == nil {
			return nil
		}
		if why := printable(err.Error()); !slices.Contains(reasons, why) {
			reasons = append(reasons, why)
		}
	}
	const shown = 3
	more := ""
	if len(reasons) > shown {
		reasons, more = reasons[:shown], "; and so on"
	}
	n := "signature was found, but"
	if len(found) > 1 {
		n = "signatures were found, but"
	}
	return fmt.Errorf("%d %s %s%s", len(found), n, strings.Join(reasons, "; "), more)
}

// printable keeps an attacker's words off the terminal's controls, and short.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return ' '
		}
		return c
	}, s)
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}
