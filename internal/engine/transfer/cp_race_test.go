package transfer

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyRace copies into and out of a root in which a folder and a link that leads out of it are exchanged all the time (CVE-2018-15664, 2019-10152,
// 2026-41568, 2026-42306): nothing outside may be read, made or changed. BRIG_COPY_ROUNDS is how often, four
// copies each time; by default 2500.
func TestCopyRace(t *testing.T) {
	rounds := 2500
	if n, err := strconv.Atoi(os.Getenv("BRIG_COPY_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	outside, root, mine := filepath.Join(dir, "outside"), filepath.Join(dir, "root"), filepath.Join(dir, "mine")
	for _, d := range []string{outside, root + "/swap", mine, root + outside} { // where the link leads in the root

		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(outside+"/secret", "outside")
	write(root+"/swap/secret", "inside")
	write(root+outside+"/secret", "inside")
	write(mine+"/file", "copied")
	if err := os.Symlink(outside, root+"/link"); err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	done := make(chan int)
	go func() {
		n := 0
		for ; !over.Load(); n++ {
			_ = unix.Renameat2(unix.AT_FDCWD, root+"/swap", unix.AT_FDCWD, root+"/link", unix.RENAME_EXCHANGE)
		}
		done <- n
	}()
	found := ""
	copied := 0
	for i := 0; i < rounds && found == ""; i++ {
		for _, way := range [][2]string{{mine + "/file", "/swap/new"}, {"/swap/secret", mine + "/got"}, {"/swap", mine + "/whole"}, {mine + "/file", "/swap/secret"}} {
			into := way[0] == mine+"/file"
			if tryCopy(t, root, way[0], way[1], into) == nil {
				copied++
			}
		}
		found = look(outside, mine)
		os.RemoveAll(mine + "/got")
		os.RemoveAll(mine + "/whole")
	}
	over.Store(true)
	t.Logf("%d of %d copies were made beside %d exchanges", copied, 4*rounds, <-done)
	if found != "" {
		t.Error(found)
	}
	if copied == 0 {
		t.Error("no copy was made: nothing was tried")
	}
}

// tryCopy is CopyFiles for a root that no container has. A copy that finds nothing, for the link is in the way, is an error.
func tryCopy(t *testing.T, root, from, to string, into bool) error {
	t.Helper()
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &copying{from: &copyEnd{typed: from, path: from, root: -1, end: func() {}}, to: &copyEnd{typed: to, path: to, root: -1, end: func() {}}}
	inside := c.from
	if into {
		inside = c.to
	}
	inside.container, inside.root = true, fd
	defer inside.close()
	if err := c.look(true); err != nil {
		return err
	}
	defer c.close()
	return c.run(context.Background(), nil, &warnings{n: maxWarnings})
}

// look tells what went wrong, if something did.
func look(outside, mine string) string {
	if got, _ := os.ReadFile(outside + "/secret"); string(got) != "outside" {
		return "a file outside was written over"
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		return "something was made outside: " + names[0].Name()
	}
	for _, p := range []string{"/got", "/whole/secret"} {
		if got, err := os.ReadFile(mine + p); err == nil && string(got) == "outside" {
			return "a file outside was read, by way of " + p
		}
	}
	return ""
}
