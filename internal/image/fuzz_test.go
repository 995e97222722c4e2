package image_test

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/internal/image"
	"brig/internal/image/imagetest"
)

// FuzzConfig: whatever a config says, an image of it has as many layers as diff IDs, all checked, and a platform.
func FuzzConfig(f *testing.F) {
	good, err := json.Marshal(imagetest.New().OCI(nil, layer(1)).Config)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"rootfs"`), []byte(`"rootfs":{},"rootfs"`), 1))
	f.Add([]byte(`{"config":{"Labels":{"a":"b","a":"c"}}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		s := imagetest.New()
		p := s.OCI(nil, layer(1))
		p.Manifest.Config = s.Put(imagespec.MediaTypeImageConfig, config)
		img, err := image.Resolve(ctx, s, s.JSON(imagespec.MediaTypeImageManifest, p.Manifest), image.Platform{})
		if err != nil {
			return
		}
		if len(img.Layers) != 1 || img.Layers[0].DiffID[:7] != "sha256:" || len(img.Layers[0].DiffID) != 71 {
			t.Fatalf("%+v", img.Layers)
		}
	})
}

// FuzzPlatform: what is read is written back as the same platform.
func FuzzPlatform(f *testing.F) {
	for _, s := range []string{"linux/amd64", "linux/arm/v7", "arm64", "Linux/AArch64", "//", "linux/arm64/v8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := image.ParsePlatform(s)
		if err != nil || p == (image.Platform{}) {
			return
		}
		again, err := image.ParsePlatform(p.String())
		if err != nil || again != p {
			t.Fatalf("%q is %+v, and %q is %+v, %v", s, p, p.String(), again, err)
		}
	})
}

// FuzzDecompress: no stream makes the decompressors panic or go on without end.
func FuzzDecompress(f *testing.F) {
	f.Add(imagetest.Gzip([]byte("some text")))
	f.Add(imagetest.Zstd([]byte("some text")))
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff})
	f.Add(imagetest.Zstd(make([]byte, 1<<20)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := image.Decompress(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer r.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 64<<20))
	})
}
