package meta

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/record"
)

// TestEveryBit: no bit of a record can be turned without its being noticed, but in the checksum's own name, which leaves the record as it was.
func TestEveryBit(t *testing.T) {
	s := Open(t.TempDir())
	img := api.Image{Name: "docker.io/library/debian:12", ID: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Created: time.Unix(1, 0).UTC()}
	if err := s.PutImage(img); err != nil {
		t.Fatal(err)
	}
	path := s.imagePath(img.Name)
	whole, err := os.ReadFile(path)
	if err != nil || !record.Signed(whole) {
		t.Fatalf("%s, %v", whole, err)
	}
	for i := range whole {
		for bit := range 8 {
			bad := append([]byte(nil), whole...)
			bad[i] ^= 1 << bit
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := s.Image(img.Name)
			if i < len(`{"sum":"`) && err == nil && got.ID == img.ID && got.Created.Equal(img.Created) {
				continue
			}
			if !errors.Is(err, api.Corrupt) {
				t.Fatalf("byte %d, bit %d: %+v, %v", i, bit, got, err)
			}
		}
	}
	// One that cannot be read is left out of the list, and listed with its file.
	good := img
	good.Name = "docker.io/library/debian:13"
	if err := s.PutImage(good); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Images(); err != nil || len(all) != 1 || all[0].Name != good.Name {
		t.Errorf("%+v, %v", all, err)
	}
	files, err := s.ImageFiles()
	if err != nil || len(files) != 2 {
		t.Fatalf("%+v, %v", files, err)
	}
	for _, f := range files {
		if (f.Err == nil) != f.Of(good.Name) || filepath.Dir(f.Path) != filepath.Dir(path) {
			t.Errorf("%+v", f)
		}
	}
}

// TestUseImage: the time of the last use is that of the record's file.
func TestUseImage(t *testing.T) {
	s := Open(t.TempDir())
	img := api.Image{Name: "docker.io/library/debian:12", ID: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
	s.UseImage(&img) // not there: no error
	if err := s.PutImage(img); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.imagePath(img.Name), then, then); err != nil {
		t.Fatal(err)
	}
	s.UseImage(&img)
	if used := s.ImageUsed(&img); time.Since(used) > time.Minute {
		t.Error(used)
	}
}
