package powercut

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mount mounts an empty file system, on which the test works itself.
func mount(t *testing.T) (*FS, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	f, err := Mount(dir, NewTree())
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { f.Unmount() })
	return f, dir
}

func try(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func fsync(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	try(t, err)
	defer f.Close()
	try(t, f.Sync())
}

// strict is what is left for certain after all that was done.
func strict(f *FS) *Tree {
	t := f.Trace()
	return NewCutter(t).Cut(len(t.Ops), Strict, nil, 1)
}

// has holds the content of files against what they should have; "-": there is no such file.
func has(t *testing.T, tree *Tree, want map[string]string) {
	t.Helper()
	for path, text := range want {
		got, there := tree.File(path)
		if !there {
			got = []byte("-")
		}
		if string(got) != text {
			t.Errorf("%s: %q, want %q", path, got, text)
		}
	}
}

// TestWhatASyncKeeps is the model: bytes need a sync of the file, names one of the folder, and syncfs keeps all.
func TestWhatASyncKeeps(t *testing.T) {
	f, dir := mount(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) { try(t, os.WriteFile(at(name), []byte(text), 0o600)) }
	write("bytes", "text")
	fsync(t, at("bytes"))
	has(t, strict(f), map[string]string{"bytes": "-"})
	fsync(t, dir)
	has(t, strict(f), map[string]string{"bytes": "text"})
	write("name", "text")
	fsync(t, dir)
	has(t, strict(f), map[string]string{"name": ""})

	// The classic: a rename without a sync of the file leaves an empty file in place of the old one.
	write("new", "new text")
	try(t, os.Rename(at("new"), at("bytes")))
	has(t, strict(f), map[string]string{"bytes": "text", "new": "-"})
	fsync(t, dir)
	has(t, strict(f), map[string]string{"bytes": "", "new": "-"})
	fsync(t, at("bytes"))
	has(t, strict(f), map[string]string{"bytes": "new text"})

	// A rename is one step: synced in one folder, it is in the other.
	try(t, os.Mkdir(at("a"), 0o700), os.Mkdir(at("b"), 0o700))
	write("a/file", "1")
	fsync(t, dir)
	fsync(t, at("a"))
	try(t, os.Rename(at("a/file"), at("b/file")))
	fsync(t, at("b"))
	has(t, strict(f), map[string]string{"a/file": "-", "b/file": ""})

	// A removal that is not synced may come to nothing; a folder whose own name is not synced has nothing in it.
	try(t, os.Remove(at("name")), os.MkdirAll(at("c/d"), 0o700))
	write("c/d/file", "2")
	fsync(t, at("c/d/file"))
	fsync(t, at("c/d"))
	has(t, strict(f), map[string]string{"name": "", "c/d/file": "-"})
	fsync(t, at("c"))
	fsync(t, dir)
	has(t, strict(f), map[string]string{"name": "-", "c/d/file": "2"})
}

// TestSyncfsIsSeen: a program's syncfs(2), which no file system in user space is told of, is an operation, and so is one of a program that it starts.
func TestSyncfsIsSeen(t *testing.T) {
	f, dir := mount(t)
	cmd := exec.Command("sh", "-c", "mkdir "+dir+"/a && echo text >"+dir+"/a/file && sync -f "+dir+" && echo more >"+dir+"/more")
	try(t, f.Start(cmd), cmd.Wait())
	has(t, strict(f), map[string]string{"a/file": "text\n", "more": "-"})
	f.Fail(func(_ int, o *Op) syscall.Errno {
		if o.Kind == Syncfs {
			return syscall.EIO
		}
		return 0
	}, 0)
	cmd = exec.Command("sync", "-f", dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	try(t, f.Start(cmd))
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "Input/output error") {
		t.Errorf("a syncfs that fails: %v, %q", err, said.String())
	}
}

// TestCutsAreWithinTheRules tries many cuts of a file that is replaced again and again: it is never missing, and always one of those that were there.
func TestCutsAreWithinTheRules(t *testing.T) {
	f, dir := mount(t)
	text := func(i int) string { return strings.Repeat(string(rune('a'+i)), 5000) }
	path := filepath.Join(dir, "file")
	for i := range 5 {
		try(t, os.WriteFile(path+".tmp", []byte(text(i)), 0o600))
		fsync(t, path+".tmp")
		try(t, os.Rename(path+".tmp", path))
		fsync(t, dir)
		f.Mark(string(rune('0' + i)))
	}
	trace := f.Trace()
	c := NewCutter(trace)
	seen := map[string]bool{}
	for n := range len(trace.Ops) + 1 {
		done := -1
		for trace.Find(string(rune('0'+done+1))) >= 0 && trace.Find(string(rune('0'+done+1))) < n {
			done++
		}
		for _, rule := range Rules() {
			for seed := range 10 {
				got, there := c.Cut(n, rule, rand.New(rand.NewPCG(uint64(seed), 1)), 1).File("file")
				ok := !there && done < 0
				for i := max(done, 0); i <= done+1; i++ {
					ok = ok || string(got) == text(i)
				}
				if !ok {
					t.Fatalf("%s after %d: %d bytes %.1q, there %t, %d done", rule, n, len(got), got, there, done)
				}
				seen[string(got)] = true
			}
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d contents were seen, want none and five", len(seen))
	}
}

// TestTreeOnDisk writes a tree of all that there is into a folder and reads it again.
func TestTreeOnDisk(t *testing.T) {
	f, dir := mount(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	old := time.Unix(1_000_000_000, 0)
	big := bytes.Repeat([]byte("0123456789"), 10_000)
	try(t, os.Mkdir(at("dir"), 0o750), os.WriteFile(at("dir/big"), big, 0o640), os.Chown(at("dir/big"), 3, 4), os.Chmod(at("dir/big"), 0o4755|os.ModeSetuid), os.Link(at("dir/big"), at("same")),
		os.Symlink("dir/big", at("link")), unix.Mknod(at("dir/white"), unix.S_IFCHR, 0), unix.Mkfifo(at("fifo"), 0o600), unix.Setxattr(at("dir"), "trusted.x", []byte("y"), 0),
		os.Truncate(at("same"), 70_000), os.Chtimes(at("dir/big"), old, old), os.WriteFile(at("hole"), nil, 0o600), os.Truncate(at("hole"), 50_000))
	disk := t.TempDir()
	if err := unix.Mount("disk", disk, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	live := f.Tree()
	try(t, live.Write(disk))
	back, err := ReadTree(disk)
	try(t, err)
	through, err := ReadTree(dir)
	try(t, err)
	trace := f.Trace()
	cut := NewCutter(trace).Cut(len(trace.Ops), Killed, nil, 1)
	for what, tree := range map[string]*Tree{"written and read": back, "read through the mount": through, "cut after everything": cut} {
		if tree.Sum("") != live.Sum("") {
			t.Errorf("%s, it is another", what)
		}
	}
	if got, _ := back.File("dir/big"); !bytes.Equal(got, big[:70_000]) {
		t.Error("the content is another")
	}
	try(t, os.Chmod(at("hole"), 0o644))
	if f.Tree().Sum("") == live.Sum("") {
		t.Error("a mode does not count")
	}
}

// TestFail fails one operation and all from one on.
func TestFail(t *testing.T) {
	f, dir := mount(t)
	path := filepath.Join(dir, "file")
	f.Fail(func(n int, _ *Op) syscall.Errno {
		if n == 2 {
			return syscall.ENOSPC
		}
		return 0
	}, 0)
	if err := os.WriteFile(path, []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the write: %v", err)
	}
	try(t, os.WriteFile(path, []byte("x"), 0o600))
	f.Fail(func(int, *Op) syscall.Errno { return syscall.EROFS }, syscall.EROFS)
	for what, err := range map[string]error{"create": os.Mkdir(path+"2", 0o700), "open": os.WriteFile(path, nil, 0o600), "remove": os.Remove(path), "rename": os.Rename(path, path+"3")} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f.Fail(nil, 0)
	try(t, os.Remove(path))
}
