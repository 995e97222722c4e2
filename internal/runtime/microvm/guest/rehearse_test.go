package guest

import (
	"os/exec"
	"path/filepath"
	"testing"

	"brig/internal/runtime/config"
	"brig/internal/runtime/oci"
)

// TestRehearsal: its configuration is one that package oci takes, and its program ends well.
func TestRehearsal(t *testing.T) {
	spec, err := config.Decode([]byte(rehearsal))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := stage(dir); err != nil {
		t.Fatal(err)
	}
	if err := (&container{spec: spec, tree: dir, group: rehearsalGroup}).inside(); err != nil {
		t.Fatal(err)
	}
	if err := oci.Validate(spec); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command(filepath.Join(dir, "bin", spec.Process.Args[0])).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("the program says %q and ends: %v", out, err)
	}
}
