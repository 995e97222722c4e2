// Package ref reads image references as docker does: debian means docker.io/library/debian:latest.
//
// The grammar is the one of github.com/distribution/reference, read by hand: that package compiles regular expressions at start, and
// this one is linked into the command line, whose start-up time counts. A test holds the two against each other. One difference: a
// first component that looks like a host but is none (a_b.c/d) is refused here, where docker yields a name without a host.
package ref

import (
	"strings"

	"brig/api"
)

const (
	// DefaultDomain is the registry of references that name none.
	DefaultDomain = "docker.io"
	// DefaultTag is the tag of references that have neither tag nor digest.
	DefaultTag = "latest"

	official     = "library/"
	legacyDomain = "index.docker.io"
	maxPath      = 255 // bytes of a repository's path, docker's limit
	maxTag       = 128
)

// Ref is a whole reference. Either Tag or Digest is set; the zero value is no reference.
type Ref struct {
	Domain string // host[:port]: docker.io
	Path   string // repository in the registry: library/debian
	Tag    string
	Digest string // sha256:…; a tag beside a digest is dropped, as by docker
}

// Parse reads what a user typed. Errors are of kind api.InvalidArgument.
func Parse(s string) (Ref, error) {
	if len(s) == 64 && isHex(s) {
		return Ref{}, bad(s, "64 hexadecimal digits are an image ID, not a name")
	}
	domain, rest := splitDomain(s)
	rest, digest, digested := strings.Cut(rest, "@")
	path, tag, tagged := strings.Cut(rest, ":")
	r := Ref{Domain: domain, Path: path, Tag: tag, Digest: digest}
	switch {
	case strings.ToLower(path) != path:
		return Ref{}, bad(s, "repository name ("+path+") must be lowercase")
	case !validDomain(domain):
		return Ref{}, bad(s, "invalid registry host "+domain)
	case !validPath(path):
		return Ref{}, bad(s, "")
	case len(path) > maxPath:
		return Ref{}, bad(s, "repository name must not be more than 255 characters")
	case tagged && !ValidTag(tag):
		return Ref{}, bad(s, "invalid tag")
	case digested && !ValidDigest(digest):
		return Ref{}, bad(s, "invalid digest")
	}
	if digested {
		r.Tag = ""
	} else if !tagged {
		r.Tag = DefaultTag
	}
	return r, nil
}

// Short reports whether a reference as typed names no registry.
func Short(s string) bool {
	first, _, slash := strings.Cut(s, "/")
	return !slash || first != "localhost" && !strings.ContainsAny(first, ".:") && strings.ToLower(first) == first
}

// Name is the repository in full: docker.io/library/debian.
func (r Ref) Name() string { return r.Domain + "/" + r.Path }

// String is the full reference, which names the image's record: docker.io/library/debian:12.
func (r Ref) String() string { return r.Name() + r.suffix() }

// Familiar is the short form that is shown to users: debian:12.
func (r Ref) Familiar() string { return r.FamiliarName() + r.suffix() }

// FamiliarName is the short form without tag or digest: debian.
func (r Ref) FamiliarName() string {
	if r.Domain != DefaultDomain {
		return r.Name()
	}
	if short, ok := strings.CutPrefix(r.Path, official); ok && !strings.Contains(short, "/") {
		return short
	}
	return r.Path
}

// Identifier is the tag or the digest, as a registry's address wants it.
func (r Ref) Identifier() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

func (r Ref) suffix() string {
	if r.Digest != "" {
		return "@" + r.Digest
	}
	return ":" + r.Tag
}

func bad(s, why string) error {
	if why != "" {
		why = ": " + why
	}
	return api.Errorf(api.InvalidArgument, "%q: invalid reference format%s", s, why)
}

// splitDomain separates the registry from the rest and fills in docker's defaults for both.
func splitDomain(s string) (domain, rest string) {
	first, after, slash := strings.Cut(s, "/")
	switch {
	case !slash:
		return DefaultDomain, official + s
	case first == legacyDomain:
		domain, rest = DefaultDomain, after
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, after
	default:
		domain, rest = DefaultDomain, s
	}
	if domain == DefaultDomain && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return domain, rest
}

// validDomain reports whether s is host[:port]: a DNS name, an IPv4 address, or an IPv6 address in brackets.
func validDomain(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 || !all(s[1:end], func(c byte) bool { return c == ':' || isHexDigit(c) || c >= 'A' && c <= 'F' }) {
			return false
		}
		host, port = "", s[end+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i:]
	}
	if port != "" && (port[0] != ':' || len(port) == 1 || !all(port[1:], isDigit)) {
		return false
	}
	if s[:min(1, len(s))] == "[" {
		return true
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' ||
			!all(label, func(c byte) bool { return c == '-' || isLower(c) || isDigit(c) || c >= 'A' && c <= 'Z' }) {
			return false
		}
	}
	return true
}

// ValidPath reports whether s may be a repository's path in its registry: library/debian.
func ValidPath(s string) bool { return len(s) <= maxPath && validPath(s) }

// validPath reports whether s is components of lower-case letters and digits, with single dots, one or two underscores or any number
// of dashes between them, separated by slashes.
func validPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" {
			return false
		}
		for i := 0; i < len(part); {
			word := i
			for i < len(part) && (isLower(part[i]) || isDigit(part[i])) {
				i++
			}
			if i == word {
				return false
			}
			if i == len(part) {
				break
			}
			sep := i
			for i < len(part) && part[i] == part[sep] {
				i++
			}
			switch n := i - sep; {
			case part[sep] == '.' && n == 1, part[sep] == '_' && n <= 2, part[sep] == '-':
			default:
				return false
			}
			if i == len(part) {
				return false
			}
		}
	}
	return true
}

// ValidTag reports whether s may be a tag: 1 to 128 letters, digits, dots, dashes and underscores, the first neither dot nor dash.
func ValidTag(s string) bool {
	return s != "" && len(s) <= maxTag && s[0] != '.' && s[0] != '-' && all(s, func(c byte) bool {
		return c == '.' || c == '-' || c == '_' || isLower(c) || isDigit(c) || c >= 'A' && c <= 'Z'
	})
}

// ValidDigest reports whether s is a digest that Brig can check: sha256, sha384 or sha512 and lower-case hexadecimal digits.
func ValidDigest(s string) bool {
	algorithm, hex, _ := strings.Cut(s, ":")
	switch algorithm {
	case "sha256":
		return len(hex) == 64 && isHex(hex)
	case "sha384":
		return len(hex) == 96 && isHex(hex)
	case "sha512":
		return len(hex) == 128 && isHex(hex)
	}
	return false
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isHex(s string) bool    { return all(s, isHexDigit) }
func isHexDigit(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' }
func isDigit(c byte) bool    { return c >= '0' && c <= '9' }
func isLower(c byte) bool    { return c >= 'a' && c <= 'z' }
