package lock

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestRemoveDirStandsLateComers has others make the lock file anew all the time.
func TestRemoveDirStandsLateComers(t *testing.T) {
	for range 50 {
		dir := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		late := make(chan bool)
		go func() {
			defer close(late)
			for {
				l, err := Try(filepath.Join(dir, "lock"))
				if errors.Is(err, os.ErrNotExist) {
					return
				}
				if err == nil {
					l.Release()
				}
			}
		}()
		if err := RemoveDir(dir); err != nil {
			t.Fatal(err)
		}
		<-late
	}
}

// TestRemoveHeldTakesNobodysFolder: many take one name over and over, by whichever way they come to its lock; the folder is its holder's alone until it removes it.
func TestRemoveHeldTakesNobodysFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	mine := filepath.Join(dir, "mine")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
					t.Error(err)
					return
				}
				l, err := Try(filepath.Join(dir, "lock"))
				if errors.Is(err, ErrHeld) || errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				f, err := os.OpenFile(mine, os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					t.Errorf("the holder's folder is not its own: %v", err)
				} else {
					f.Close()
				}
				if err := RemoveHeld(dir, "lock"); err != nil {
					t.Error(err)
				}
				l.Release()
			}
		})
	}
	wg.Wait()
	if l, err := Try(filepath.Join(dir, "lock")); err == nil { // the last ones may have been kept out
		RemoveHeld(dir, "lock")
		l.Release()
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}
