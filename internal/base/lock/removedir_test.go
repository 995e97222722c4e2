package lock

import (
	"errors"
	"os"
	"path/filepath"
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
