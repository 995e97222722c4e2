package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGenerate(t *testing.T) {
	t.Setenv("BRIG_ROOT", "") // a default in a page must be Brig's, not the builder's
	dir := t.TempDir()
	if err := generate(dir); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"man1/brig.1":          "brig-run",
		"man1/brig-run.1":      "(format: <name|uid>[:<group|gid>])",
		"man1/brig-exec.1":     "--workdir",
		"completion/brig":      "__start_brig",
		"completion/_brig":     "#compdef brig",
		"completion/brig.fish": "complete -c brig",
	} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %q", file, want)
		}
		if strings.Contains(string(data), "Auto generated") {
			t.Errorf("%s says when it was made: builds would differ", file)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "man1/brig-reap.1")); err == nil {
		t.Error("the hidden command reap has a manual page")
	}
}

func TestGenerateRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := generate(file); err == nil {
		t.Error("wrote below a file")
	}
}
