package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestSizedVolumeKilled: wherever the making of a volume with a size is killed, or that of its file system, it can be made, filled and removed afterwards.
func TestSizedVolumeKilled(t *testing.T) {
	w := newWorld(t)
	create := []string{"volume", "create", "--opt", "size=8m", "kill"}
	archive := filepath.Join(t.TempDir(), "files.tar")
	w.must("run", "--name", "source", "--network", "none", "-v", "kept:/v", "brig/base", "sh", "-c", "echo kept >/v/file")
	w.must("volume", "export", "-o", archive, "kept")
	w.must("rm", "source")
	w.must("volume", "rm", "kept")
	w.must(create...)
	w.must("volume", "rm", "kill")
	w.base = w.things()
	total := killAt(t, w.command(create...), theCommand, 0)
	w.must("volume", "rm", "kill")
	fill := []string{"volume", "import", "kill", archive}
	moments := 15 * scale()
	for i := range moments {
		n := 1 + total*i/moments + rand.IntN(total/moments)
		when := fmt.Sprintf("volume create killed at stop %d of %d", n, total)
		killAt(t, w.command(create...), theCommand, n)
		w.must(create...)
		w.must(fill...)
		if out := w.must("volume", "inspect", "-f", "{{.Options.size}}", "kill"); out != "8m" {
			t.Errorf("%s: its size: %q", when, out)
		}
		if out := w.must("run", "--rm", "--network", "none", "-v", "kill:/v", "brig/base", "sh", "-c", "cat /v/file; df -k /v | grep -c /dev/loop"); out != "kept\n1" {
			t.Errorf("%s: what is in it: %q", when, out)
		}
		w.must("volume", "rm", "kill")
		if w.mustBeClean(when); t.Failed() {
			return
		}
	}
	w.must(create...)
	total = killAt(t, w.command("volume", "rm", "kill"), theCommand, 0)
	for i := range moments {
		n := 1 + total*i/moments + rand.IntN(total/moments)
		w.must(create...)
		w.must("volume", "mount", "kill")
		killAt(t, w.command("volume", "rm", "kill"), theCommand, n)
		w.must(create...) // be it gone or not
		w.must("volume", "rm", "kill")
		w.must("run", "--rm", "--network", "none", "brig/base", "true") // which empties the trash
		if w.mustBeClean(fmt.Sprintf("volume rm killed at stop %d of %d", n, total)); t.Failed() {
			return
		}
	}
}

// TestSecretKilled: wherever the making of a secret is killed there is a whole one or none, and nothing of it is left when it is removed.
func TestSecretKilled(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "word")
	if err := os.WriteFile(file, []byte("the word"), 0o600); err != nil {
		t.Fatal(err)
	}
	create := []string{"secret", "create", "--replace", "kill", file}
	w.must(create...)
	w.must("secret", "rm", "kill")
	w.base = w.things()
	total := killAt(t, w.command(create...), theCommand, 0)
	moments := 20 * scale()
	for i := range moments {
		n := 1 + total*i/moments + rand.IntN(total/moments)
		when := fmt.Sprintf("secret create killed at stop %d of %d", n, total)
		killAt(t, w.command(create...), theCommand, n)
		if r := w.brig("secret", "inspect", "kill"); r.Code != 0 && i == 0 && n == total {
			t.Errorf("%s: %s", when, r)
		}
		w.must(create...)
		if out := w.must("run", "--rm", "--network", "none", "--secret", "kill", "brig/base", "cat", "/run/secrets/kill"); out != "the word" {
			t.Errorf("%s: %q", when, out)
		}
		w.must("secret", "rm", "kill")
		if w.mustBeClean(when); t.Failed() {
			return
		}
	}
}
