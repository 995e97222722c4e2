package monitor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/base/lock"
	"brig/internal/runtime/microvm/wire"
)

// makes runs makeTemplate with a runtime that is a script, and gives what is in the folder of templates after that.
func makes(t *testing.T, dir, name, script string) (string, error) {
	t.Helper()
	runtime := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(runtime, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	job, err := json.Marshal(wire.Job{Dir: dir, Name: name, Runtime: runtime, Config: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(wire.JobVar, string(job))
	err = makeTemplate()
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " "), err
}

// made is what a runtime does that makes a template: its arguments are --root DIR run --bundle DIR ID.
const made = `[ "$3 $4" = "run --bundle" ] && [ -d "$2" ] && [ -e "$5/config.json" ] && echo x >"$5/` + wire.OutDir + `/state"`

func TestMakeTemplate(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, wire.New("killed"))
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := makes(t, dir, "one", made); got != "lock one" || err != nil {
		t.Errorf("made: %q, %v", got, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "one", "state")); string(b) != "x\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if got, err := makes(t, dir, "one", "exit 1"); got != "lock one" || err != nil {
		t.Errorf("there already: %q, %v", got, err)
	}
	got, err := makes(t, dir, "two", "echo why; exit 1")
	if got != "lock one "+wire.Reason("two") || err == nil {
		t.Errorf("failed: %q, %v", got, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, wire.Reason("two"))); !strings.Contains(string(b), "why") {
		t.Errorf("the reason: %q", b)
	}
	held, err := lock.Try(filepath.Join(dir, wire.LockName))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := makes(t, dir, "three", made); strings.Contains(got, "three") || err != nil {
		t.Errorf("beside another: %q, %v", got, err)
	}
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
}

// TestFewTemplates keeps those that were used last.
func TestFewTemplates(t *testing.T) {
	dir := t.TempDir()
	for i := range mostTemplates + 2 {
		path := filepath.Join(dir, fmt.Sprint("t", i))
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	got, err := makes(t, dir, "new", made)
	if want := "lock new t0 t1 t2"; got != want || err != nil {
		t.Errorf("%q instead of %q, %v", got, want, err)
	}
}
