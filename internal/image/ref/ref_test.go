package ref

import (
	_ "crypto/sha512" // makes docker's package know sha384 and sha512
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"

	"brig/api"
)

var hex64 = strings.Repeat("0123456789abcdef", 4)

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, full, familiar string }{
		{"debian", "docker.io/library/debian:latest", "debian:latest"},
		{"debian:12", "docker.io/library/debian:12", "debian:12"},
		{"docker.io/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"index.docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"},
		{"brig/base", "docker.io/brig/base:latest", "brig/base:latest"},
		{"library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"},
		{"localhost/x", "localhost/x:latest", "localhost/x:latest"},
		{"localhost:5000/x/y:Tag_1.2-3", "localhost:5000/x/y:Tag_1.2-3", "localhost:5000/x/y:Tag_1.2-3"},
		{"[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"},
		{"HOST/x", "HOST/x:latest", "HOST/x:latest"},
		{"127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"},
		{"debian@sha256:" + hex64, "docker.io/library/debian@sha256:" + hex64, "debian@sha256:" + hex64},
		{"debian:12@sha256:" + hex64, "docker.io/library/debian@sha256:" + hex64, "debian@sha256:" + hex64},
		{"a__b/c---d.e_f", "docker.io/a__b/c---d.e_f:latest", "a__b/c---d.e_f:latest"},
	} {
		r, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if r.String() != c.full || r.Familiar() != c.familiar {
			t.Errorf("%s: got %s and %s, want %s and %s", c.in, r, r.Familiar(), c.full, c.familiar)
		}
		if again, err := Parse(r.Familiar()); err != nil || again != r {
			t.Errorf("%s: its familiar form %s reads as %v, %v", c.in, r.Familiar(), again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "/", "a/", "/a", "a//b", "Debian", "a:", "a:-x", "a:x y", "a@", "a@sha256:12", "a@sha256:" + strings.ToUpper(hex64),
		"a@md5:" + hex64[:32], hex64, "a_.b", "a___b", "a..b", "-a", "a-", "a/../b", "..", "a b", "a\x00b", "é", "host.x:port/a", "host.x:/a",
		"-h.x/a", "[::1/a", "[]/a", "[::1]x/a", "a_b.c/d", ".x/a", "a:" + strings.Repeat("x", 129), strings.Repeat("a", 300), "a:1:2"} {
		r, err := Parse(in)
		if err == nil {
			t.Errorf("%q was read as %s", in, r)
		} else if !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "invalid reference format") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseAllocatesLittle(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Parse("localhost:5000/a/b:12") }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse holds Parse against docker's own package.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"debian", "a.b/c:d", "localhost/x", "[fe80::1]:1/a@sha256:" + hex64, "A/b", "a_b.c/d", "x/y/z:1@sha512:" + hex64 + hex64,
		"a:b/c", "index.docker.io/x", hex64, "a.b:1/c__d:e", "1.2.3.4/a--b", strings.Repeat("a/", 127) + "b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mine, err := Parse(s)
		theirs, theirErr := reference.ParseDockerRef(s)
		if theirErr == nil && reference.Domain(theirs) == "" {
			theirErr = errors.New("no host") // the documented difference
		}
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: Parse says %v, docker's reference says %v", s, err, theirErr)
		}
		if err != nil {
			return
		}
		if mine.String() != theirs.String() || mine.Familiar() != reference.FamiliarString(theirs) {
			t.Fatalf("%q: Parse says %s (%s), docker's reference says %s (%s)", s, mine, mine.Familiar(), theirs, reference.FamiliarString(theirs))
		}
		if mine.Domain != reference.Domain(theirs) || mine.Path != reference.Path(theirs) {
			t.Fatalf("%q: parts %+v", s, mine)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		Parse("docker.io/library/debian:12")
	}
}
