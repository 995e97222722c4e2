package pty

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
)

// instance is a devpts of the test's own, attached nowhere.
func instance(t *testing.T) int {
	t.Helper()
	fd, err := mount.New("devpts", "devpts", []string{"newinstance", "ptmxmode=0666", "mode=0620"}, 0)
	if err != nil {
		t.Skipf("devpts: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestEndsTalk(t *testing.T) {
	master, slave, err := Open(instance(t))
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if _, err := slave.WriteString("from within\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(master)
	if line, err := r.ReadString('\n'); line != "from within\r\n" { // ONLCR
		t.Errorf("the master end read %q, %v", line, err)
	}
	if _, err := master.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(slave).ReadString('\n'); line != "typed\n" {
		t.Errorf("the slave end read %q, %v", line, err)
	}
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "typed") {
		t.Errorf("echo is %q", line)
	}
	slave.Close()
	if _, err := r.ReadByte(); err == nil {
		t.Error("the master end reads on when the slave is closed")
	}
}

func TestResize(t *testing.T) {
	master, slave, err := Open(instance(t))
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if err := Resize(int(master.Fd()), 43, 132); err != nil {
		t.Fatal(err)
	}
	if w, err := unix.IoctlGetWinsize(int(slave.Fd()), unix.TIOCGWINSZ); err != nil || w.Row != 43 || w.Col != 132 {
		t.Errorf("size %+v, %v; want 43 rows, 132 columns", w, err)
	}
	if err := Resize(-1, 1, 1); err == nil {
		t.Error("a closed descriptor has been resized")
	}
}

// TestOwnInstance: the terminal is the first of its own devpts, it is not opened into anything executed, and it became nobody's controlling one.
func TestOwnInstance(t *testing.T) {
	master, slave, err := Open(instance(t))
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN); err != nil || n != 0 {
		t.Errorf("terminal number %d, %v; want 0", n, err)
	}
	for _, f := range []*os.File{master, slave} {
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %x, %v; want close-on-exec", f.Name(), flags, err)
		}
	}
	if sid, err := unix.IoctlGetInt(int(slave.Fd()), unix.TIOCGSID); err == nil {
		t.Errorf("it is the controlling terminal of session %d", sid)
	}
}

func TestNotADevpts(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, _, err := Open(int(dir.Fd())); err == nil {
		t.Error("a terminal out of a plain folder")
	}
	// Whoever made the folder may have put something else there.
	if err := os.WriteFile(dir.Name()+"/ptmx", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(int(dir.Fd())); err == nil {
		t.Error("a terminal out of a plain file")
	}
}
