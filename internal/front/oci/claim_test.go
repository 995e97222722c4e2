package oci

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"brig/api"
	"brig/internal/base/lock"
)

// TestClaimTakesNobodysContainer: whoever gets a name gets an empty folder, and nobody gets the folder of a container that is there.
func TestClaimTakesNobodysContainer(t *testing.T) {
	g := &globals{root: filepath.Join(t.TempDir(), "root")}
	state := filepath.Join(g.dir("x"), stateName)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 150 {
				l, err := g.claim("x")
				if errors.Is(err, api.AlreadyExists) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if exists(state) {
					t.Error("claimed a container that is there")
				}
				e := &entry{ID: "x", dir: g.dir("x")}
				err = errors.Join(e.begin([]byte("{}")), e.save(), l.Release())
				if err != nil {
					t.Errorf("the claimed folder is not the claimer's: %v", err)
				}
				_, l, err = g.hold("x")
				if err != nil {
					t.Errorf("the container was taken away: %v", err)
					continue
				}
				if err := errors.Join(lock.RemoveHeld(g.dir("x"), lockName), l.Release()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if names, err := os.ReadDir(g.root); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestClaimOfAnothersFolder: who made a folder, and comes back to another's of that name, takes it only if nothing is in it.
func TestClaimOfAnothersFolder(t *testing.T) {
	for what, c := range map[string]struct {
		files   []string
		held    bool
		exists  bool
		removed bool
	}{
		"nothing":       {held: true},
		"a container":   {files: []string{earlyName, configName, stateName}, exists: true},
		"a cut-off one": {files: []string{earlyName}, removed: true},
	} {
		g := &globals{root: t.TempDir()}
		if err := os.Mkdir(g.dir("x"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range c.files {
			if err := os.WriteFile(filepath.Join(g.dir("x"), f), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, _, err := g.claimMade("x", true)
		if (l != nil) != c.held || errors.Is(err, api.AlreadyExists) != c.exists || err != nil && !c.exists {
			t.Errorf("%s: held %t, %v", what, l != nil, err)
		}
		for _, f := range c.files {
			if exists(filepath.Join(g.dir("x"), f)) == c.removed {
				t.Errorf("%s: %s is there: %t", what, f, !c.removed)
			}
		}
		if l != nil {
			l.Release()
		}
	}
}
