package meta

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"brig/api"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

func image(name, digit string) api.Image {
	return api.Image{Name: name, ID: "sha256:" + strings.Repeat(digit, 64), Platform: "linux/amd64", Config: imagespec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}}
}

func TestImages(t *testing.T) {
	s := Open(t.TempDir())
	long := "registry.example:5000/" + strings.Repeat("a/", 110) + "x:tag"
	one, two, three := image("docker.io/library/debian:12", "1"), image("docker.io/library/debian:latest", "1"), image(long, "a")
	four, five := image(long+"2", "b"), image("", "c")
	all := []api.Image{one, two, three, four, five}
	for _, img := range all {
		for range 2 {
			if err := s.PutImage(img); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Image(imageKey(img)); err != nil || !reflect.DeepEqual(got, img) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if got, err := s.Images(); len(got) != 5 || got[0].Name != one.Name || err != nil {
		t.Error(got, err)
	}
	for key, want := range map[string]string{one.ID: one.Name, one.ID[:10]: one.Name, "11": one.Name, "cc": "", three.ID[7:]: three.Name} {
		if got, err := s.ImageByID(key); err != nil || got.Name != want {
			t.Errorf("%s: %s, %v", key, got.Name, err)
		}
	}
	if err := s.PutImage(api.Image{Name: "x", ID: one.ID[:20] + strings.Repeat("2", 51)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ImageByID("11"); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
	for _, key := range []string{"", "sha256:", "d", "../x", "debian", "11/"} {
		if _, err := s.ImageByID(key); !errors.Is(err, api.NotFound) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if err := s.RemoveImage(one.Name); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveImage(one.Name); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	if _, err := s.Image(one.Name); !errors.Is(err, api.NotFound) || err.Error() != "no such image: "+one.Name {
		t.Error(err)
	}
	for _, bad := range []string{"", "sha256:", "sha256:../x", strings.Repeat("a", 64)} {
		if err := s.PutImage(api.Image{Name: "x", ID: bad}); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// A record in another's place is not taken for it.
	b, err := os.ReadFile(s.imagePath(two.Name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.imagePath("y"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Image("y"); !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
}

func TestEscape(t *testing.T) {
	seen := map[string]string{}
	for _, key := range []string{"a/b", "a%2Fb", "a%252Fb", ".", "..", ".a", "a.", "a:b", "a@sha256:0", "a b", "a\x00b", "ä", "A", "a", strings.Repeat("/", 300), strings.Repeat("/", 301), strings.Repeat("x", 200), strings.Repeat("x", 201)} {
		got := escape(key)
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q are both %q", key, other, got)
		}
		seen[got] = key
		if len(got) > maxFileName || got[0] == '.' || strings.ContainsAny(got, "/\x00") {
			t.Errorf("%q becomes %q", key, got)
		}
	}
}
