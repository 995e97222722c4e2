package usage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func du(t *testing.T, path string) int64 {
	t.Helper()
	out, err := exec.Command("du", "-sx", "--block-size=1", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fill makes files, holes, links, hard links within and across units, FIFOs.
func fill(t *testing.T, root string) {
	t.Helper()
	script := `
mkdir -p a/one/x a/two b/deep; head -c 100000 /dev/zero >a/one/x/f; ln a/one/x/f a/two/g; ln a/one/x/f b/h
truncate -s 10M b/hole; mkfifo b/pipe; ln -s /etc b/link; for i in $(seq 300); do echo $i >a/two/$i; done; echo top >top`
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

func units(path string) (string, bool) {
	parts := strings.Split(path, "/")
	if parts[0] == "a" && len(parts) == 2 {
		return path, true
	}
	return parts[0], parts[0] == "b"
}

func TestMeasureIsDu(t *testing.T) {
	root := t.TempDir()
	fill(t, root)
	u, err := Measure(context.Background(), root, units)
	if err != nil {
		t.Fatal(err)
	}
	if want := du(t, root); u.Total != want {
		t.Errorf("%d bytes, du says %d", u.Total, want)
	}
	for _, name := range []string{".", "a", "a/one", "a/two", "b", "top"} {
		if _, ok := u.Units[name]; !ok {
			t.Errorf("no unit %q in %v", name, u.Units)
		}
	}
	if one, err := Of(filepath.Join(root, "a", "two")); err != nil || one != du(t, filepath.Join(root, "a", "two")) {
		t.Errorf("a/two: %d, %v", one, err)
	}
	if n, err := Of(filepath.Join(root, "nothing")); err != nil || n != 0 {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if u, err := Measure(context.Background(), filepath.Join(root, "nothing"), units); err != nil || u.Total != 0 {
		t.Errorf("nothing: %+v, %v", u, err)
	}
}

// TestDeep: deeper than files can be open, and than a path can say.
func TestDeep(t *testing.T) {
	root := t.TempDir()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const depth = 3000
	for i := range depth {
		if err := unix.Mkdirat(fd, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			unix.Write(f, make([]byte, 5000))
			unix.Close(f)
			if err := unix.Mkdirat(fd, "z", 0o700); err != nil { // after the way back
				t.Fatal(err)
			}
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	n, err := Of(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := du(t, root); n != want {
		t.Errorf("%d bytes, du says %d", n, want)
	}
	exec.Command("rm", "-rf", root).Run()
}

func TestCancelled(t *testing.T) {
	root := t.TempDir()
	fill(t, root)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Measure(ctx, root, units); err == nil {
		t.Error("no error")
	}
}

// TestWhileItChanges: what comes and goes is no error.
func TestWhileItChanges(t *testing.T) {
	root := t.TempDir()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			dir := filepath.Join(root, strconv.Itoa(i%10))
			os.MkdirAll(filepath.Join(dir, "x", "y"), 0o700)
			os.WriteFile(filepath.Join(dir, "x", "f"), make([]byte, 5000), 0o600)
			os.RemoveAll(dir)
		}
	}()
	for range 200 {
		if _, err := Measure(context.Background(), root, func(p string) (string, bool) { return p, p != "." }); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
}
