package policyfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFind: a given file comes first and must be there; the user's comes before the system's.
func TestFind(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if p, err := Find(""); err != nil || p != "" && p != System {
		t.Errorf("%q, %v", p, err)
	}
	users := write(t, home+user, "{}")
	if p, err := Find(""); err != nil || p != users {
		t.Errorf("%q, %v", p, err)
	}
	given := write(t, filepath.Join(home, "given"), "{}")
	if p, err := Find(given); err != nil || p != given {
		t.Errorf("%q, %v", p, err)
	}
	if p, err := Find(given + "x"); err == nil || !strings.Contains(err.Error(), given+"x") {
		t.Errorf("a given file that is not there: %q, %v", p, err)
	}
	loop := filepath.Join(home, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", loop)
	if p, err := Find(""); err == nil {
		t.Errorf("a place that cannot be looked at passes for one without a policy: %q", p)
	}
}

// TestStamp: whatever changes a file changes its stamp, also where size and time of the last write are set to what they were.
func TestStamp(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "policy"), "accept")
	old := time.Unix(1_700_000_000, 0)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	stamp := func() string {
		t.Helper()
		s, err := Stamp(path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := stamp()
	if stamp() != first {
		t.Error("it changes by itself")
	}
	time.Sleep(20 * time.Millisecond) // more than the clock of a file system
	write(t, path, "reject")
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	second := stamp()
	if second == first {
		t.Error("it was written to, and the time of that was set back")
	}
	other := write(t, path+"2", "reject")
	if err := os.Chtimes(other, old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if s := stamp(); s == second {
		t.Error("another file took its place")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s, err := StampOf(f); err != nil || s != stamp() {
		t.Errorf("%q, %v", s, err)
	}
	if _, err := Stamp(path + "x"); err == nil {
		t.Error("what is not there has a stamp")
	}
}

// BenchmarkNoPolicy is what a run pays where there is no policy.
func BenchmarkNoPolicy(b *testing.B) {
	b.Setenv("HOME", b.TempDir())
	for b.Loop() {
		if _, err := Find(""); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnchanged is what a run pays where nothing changed: the policy is found and looked at, and one key.
func BenchmarkUnchanged(b *testing.B) {
	policy, key := write(b, filepath.Join(b.TempDir(), "policy"), "{}"), write(b, filepath.Join(b.TempDir(), "key"), "")
	for b.Loop() {
		p, err := Find(policy)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range []string{p, key} {
			if _, err := Stamp(f); err != nil {
				b.Fatal(err)
			}
		}
	}
}
