package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

// FuzzDocker: whatever manifest.json and config say, what is listed has checked digests and names.
func FuzzDocker(f *testing.F) {
	layer := imagetest.Layer("a", "b")
	config, _ := dockerFiles("layer.tar", layer, layer, "debian:12")
	f.Add([]byte(`[{"Config":"config.json","RepoTags":["debian:12"],"Layers":["layer.tar"]}]`), []byte(config))
	f.Add([]byte(`[{"Config":"../config.json","RepoTags":["../x"],"Layers":["/etc/passwd"]}]`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		l, err := New(bytes.NewReader(pack(t, file{name: "manifest.json", data: string(manifest)}, file{name: "config.json", data: string(config)}, file{name: "layer.tar", data: string(layer)})), "fuzz")
		if err != nil {
			return
		}
		for _, e := range l.Entries() {
			if e.Target.Digest.Validate() != nil {
				t.Fatalf("%+v", e)
			}
			if img, err := image.Resolve(t.Context(), l, e.Target, image.Platform{}); err == nil && len(img.Layers) > 1 {
				for _, x := range img.Layers {
					if x.Blob.Digest.Validate() != nil {
						t.Fatalf("%+v", x)
					}
				}
			}
		}
	})
}

// TestAmplification: a small archive that names one thing many times is not read many times, nor kept many times.
func TestAmplification(t *testing.T) {
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	layer := imagetest.Gzip(noise)
	many := func(n int, layers []string) string {
		b, err := json.Marshal(map[string]any{"Config": "config.json", "Layers": layers})
		if err != nil {
			t.Fatal(err)
		}
		return "[" + strings.TrimSuffix(strings.Repeat(string(b)+",", n), ",") + "]"
	}
	open := func(manifest, config string, more ...file) error {
		l, err := New(bytes.NewReader(pack(t, append(more, file{name: "manifest.json", data: manifest}, file{name: "config.json", data: config}, file{name: "layer.tgz", data: string(layer)})...)), "archive")
		if err == nil {
			l.Close()
		}
		return err
	}
	ids := strings.TrimSuffix(strings.Repeat(`"sha256:`+strings.Repeat("a", 64)+`",`, image.MaxLayers), ",")
	names := make([]string, image.MaxLayers)
	for i := range names {
		names[i] = "layer.tgz"
	}
	begin := time.Now()
	if err := open(many(100, names), `{"rootfs":{"diff_ids":[`+ids+`]}}`); err != nil && !errors.Is(err, api.Exhausted) { // 50 000 layers, all one file
		t.Error(err)
	}
	if d := time.Since(begin); d > 30*time.Second {
		t.Errorf("one packed layer was read for each of its mentions: %s", d)
	}
	if err := open(many(image.MaxIndexEntries+1, nil), `{}`); !errors.Is(err, api.Exhausted) {
		t.Errorf("many images: %v", err)
	}
	var items []string
	var configs []file
	for i := range maxMade/(3<<20) + 1 {
		name := fmt.Sprintf("%d.json", i)
		items = append(items, fmt.Sprintf(`{"Config":%q,"Layers":[]}`, name))
		configs = append(configs, file{name: name, data: fmt.Sprintf(`{"author":"%d"`, i) + strings.Repeat(" ", 3<<20) + "}"})
	}
	if err := open("["+strings.Join(items, ",")+"]", `{}`, configs...); !errors.Is(err, api.Exhausted) {
		t.Errorf("many configs: %v", err)
	}
	long := strings.Repeat("n", 100_000)
	configs = nil
	for i := range maxNames/100_000 + 1 {
		configs = append(configs, file{name: fmt.Sprint(long, i), data: ""})
	}
	if err := open(`[]`, `{}`, configs...); !errors.Is(err, api.Exhausted) {
		t.Errorf("long names: %v", err)
	}
}
