package userns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
)

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		text, words string
		want        []uint32
	}{
		{"alice:100000:65536\n", "", []uint32{1, 100000, 65536}},
		{"bob:1:2\n1000:500:10\nalice:100000:20\n", "", []uint32{1, 500, 10, 11, 100000, 20}},
		{"alice:100000:20\nalice:100010:20\n", "", []uint32{1, 100000, 20}}, // the second overlaps
		{"alice:4294967290:100\n", "", []uint32{1, 4294967290, 5}},
		{"alice:100000:0\n", "no ids", nil},
		{"", "usermod --add-subuids", nil},
		{"alice:x:1\n", `line "alice:x:1"`, nil},
		{"alice:1:-1\n", "line", nil},
		{"alice:99999999999:1\n", "line", nil},
	} {
		file := filepath.Join(t.TempDir(), "subuid")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ranges(file, 1, []string{"1000", "alice"})
		if c.words == "" && (err != nil || !slices.Equal(got, m(c.want...))) || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
		if err == nil && Validate("f", got) != nil {
			t.Errorf("%q: %v", c.text, got)
		}
	}
	if _, err := ranges(filepath.Join(t.TempDir(), "none"), 1, []string{"alice"}); !errors.Is(err, api.Unsupported) {
		t.Error(err)
	}
}

func TestUserName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(file, []byte("root:x:0:0::/:\nx\nalice:x:1000:1000::/:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("USER", "someone")
	if a, b := userName(file, 1000), userName(file, 7); a != "alice" || b != "someone" {
		t.Error(a, b)
	}
}

// TestMembers: a namespace is found as long as a member is in it. The member is a program that holds the lock; without root the one that looks owns the namespace.
func TestMembers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("other ids are root's to map")
	}
	path := filepath.Join(t.TempDir(), "userns")
	members, err := OpenMembers(path)
	if err != nil {
		t.Fatal(err)
	}
	if ns, ok := members.Namespace(); ok {
		t.Errorf("a namespace without a member: %d", ns)
	}
	ids := m(0, 0, 1, 1, 100000, 10)
	ns, err := New(ids, ids)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := members.Start(ns, &Command{Path: sleep, Args: []string{"sleep", "100"}, Env: func(int) []string { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, nil, 0, nil)
	}()
	if err := members.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenMembers(path) // the child does not hold what locks out others
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	found, ok := again.Namespace()
	if !ok {
		t.Fatal("the member is not found")
	}
	defer unix.Close(found)
	var a, b unix.Stat_t
	if unix.Fstat(found, &a) != nil || unix.Fstat(ns, &b) != nil || a.Ino != b.Ino {
		t.Error("another namespace was found")
	}
	if _, err := again.Start(ns, &Command{Path: "/nonexistent", Args: []string{"x"}, Env: func(int) []string { return nil }}); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Error(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	syscall.Wait4(pid, nil, 0, nil)
	if ns, ok := again.Namespace(); ok {
		t.Errorf("a namespace whose member has ended: %d", ns)
	}
}
