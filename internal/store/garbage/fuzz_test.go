package garbage

import (
	"os"
	"path/filepath"
	"testing"

	"brig/internal/store/content"
)

// FuzzLease: whatever stands in a lease, what is read of it are digests, or it is an error.
func FuzzLease(f *testing.F) {
	f.Add([]byte("blob sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"))
	f.Add([]byte("layer sha256:../..\nblob"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "lease")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		set, _ := readLease(path)
		for _, d := range append(set.Blobs, set.Layers...) {
			if err := content.Check(d); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzSmallFiles: settings, version, reservations and ledger may hold anything. What is made of them is never a negative number.
func FuzzSmallFiles(f *testing.F) {
	f.Add([]byte(`{"sum":"3fd41eced0439681","storeLimit":31457280}`))
	f.Add([]byte(`{"sum":"`))
	f.Add([]byte("00000000000000000012\n"))
	f.Add([]byte(`{"used":5,"at":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Open(t.TempDir())
		if err := os.Mkdir(filepath.Join(s.Root, reserveDir), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{filepath.Join(s.Root, settingsFile), filepath.Join(s.Root, versionFile), filepath.Join(s.Root, reserveDir, ledgerFile)} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if set, err := s.Settings(); err == nil && set.StoreLimit < 0 {
			t.Errorf("a limit of %d", set.StoreLimit)
		}
		_ = s.CheckVersion()
		if led, ok := s.ledger(); ok && led.Used < 0 {
			t.Errorf("a ledger of %d", led.Used)
		}
		if n, err := parseHold(text); err == nil && n < 0 {
			t.Errorf("a reservation of %d", n)
		}
	})
}
