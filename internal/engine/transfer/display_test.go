package transfer

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/image/imagetest"
)

// terminal returns both ends of a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120})
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// TestBars pulls to a terminal: bars with docker's words, and the last lines below them. A failing pull ends the display too.
func TestBars(t *testing.T) {
	w := newWorld(t)
	p := w.reg.OCI(imagetest.Gzip, layers(2, 100_000)...)
	w.reg.PutImage(p, "1")
	master, slave := terminal(t)
	shown := make(chan string, 1)
	go func() {
		var all strings.Builder
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			all.Write(b[:n])
			if err != nil || strings.Contains(all.String(), "the end") {
				shown <- all.String()
				return
			}
		}
	}()
	w.tr.Stderr = slave
	if _, err := w.pull("x:1"); err != nil {
		t.Fatal(err)
	}
	delete(w.reg.Blobs, p.Manifest.Layers[1].Digest)
	p.Manifest.Annotations = map[string]string{"other": "digest"}
	w.reg.PutImage(p, "2")
	w.tr.stores.Snapshot.RemoveLayer(p.Config.RootFS.DiffIDs[1].String())
	w.tr.stores.Content.Remove(p.Manifest.Layers[1].Digest)
	done := make(chan error, 1)
	go func() { _, err := w.pull("x:2"); done <- err }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a missing layer was pulled")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the display of a failed pull does not end")
	}
	fmt.Fprintln(slave, "the end")
	out := <-shown
	for _, want := range []string{"1: Pulling from " + w.host + "/x", short(p.Manifest.Layers[0].Digest) + ": Pull complete", "Status: Downloaded newer image"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not on the screen: %q", want, out)
		}
	}
}

func TestTerminalRefused(t *testing.T) {
	w, debian, _ := pulled(t)
	_, slave := terminal(t)
	w.tr.Stdout, w.tr.Stdin = slave, slave
	for _, r := range []api.TransferRequest{{Op: "save", Refs: []string{debian.Name}}, {Op: "save", Refs: []string{debian.Name}, File: slave.Name()}, {Op: "load"}} {
		if _, err := w.tr.Do(ctx, r); err == nil || !strings.Contains(err.Error(), "terminal") {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestWarnIsNotQuiet(t *testing.T) {
	var out strings.Builder
	d := newDisplay(&out, true, true)
	d.say("not seen")
	d.layer(digest.FromString("x"), 1).end(false, nil)
	d.warn("of %s", "this")
	d.finish()
	if out.String() != "WARNING: of this\n" {
		t.Errorf("%q", out.String())
	}
}
