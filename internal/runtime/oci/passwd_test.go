package oci

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAddEntry: a line is added once, behind a whole line, and neither for a name or number that is there nor outside of the root.
func TestAddEntry(t *testing.T) {
	passwd, group := "ann:*:1000:1000:Ann:/home/ann:/bin/sh", "ann:x:1000:ann"
	if got := PasswdEntries("ann", 1000, 1000, "Ann", "/home/ann"); got != passwd+"\n"+group {
		t.Errorf("entries %q", got)
	}
	if got := PasswdEntries("ann", 1, 1, "", "/x\nroot2::0:0::/:/bin/sh"); got != "ann:*:1:1::/:/bin/sh\nann:x:1:ann" {
		t.Errorf("a folder with more than one line: %q", got)
	}
	outside := filepath.Join(t.TempDir(), "passwd")
	for was, want := range map[string]string{
		"root:x:0:0::/:/bin/sh\n": "root:x:0:0::/:/bin/sh\n" + passwd + "\n",
		"root:x:0:0::/:/bin/sh":   "root:x:0:0::/:/bin/sh\n" + passwd + "\n",
		"node:x:1000:1000:::\n":   "node:x:1000:1000:::\n",
		"ann:x:7:7:::\n":          "ann:x:7:7:::\n",
		"":                        "",
	} {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/etc/passwd", []byte(was), 0o644); err != nil {
			t.Fatal(err)
		}
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := addEntry(root, "etc/passwd", passwd); err != nil {
				t.Errorf("%q: %v", was, err)
			}
		}
		if got, _ := os.ReadFile(dir + "/etc/passwd"); string(got) != want {
			t.Errorf("%q became %q", was, got)
		}
		if err := addEntry(root, "etc/group", group); err != nil { // there is none
			t.Error(err)
		}
		// A link does not lead out.
		os.WriteFile(outside, []byte("x\n"), 0o644)
		os.Remove(dir + "/etc/passwd")
		os.Symlink(outside, dir+"/etc/passwd")
		if err := addEntry(root, "etc/passwd", passwd); err != nil {
			t.Error(err)
		}
		if got, _ := os.ReadFile(outside); string(got) != "x\n" {
			t.Errorf("outside: %q", got)
		}
		unix.Close(root)
	}
}
