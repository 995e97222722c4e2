package procimage

import (
	"crypto/sha256"
	"encoding/base64"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/qmp"
)

// folder has the files of an image.
type folder struct{ memory, pages, stub *os.File }

const memorySize = 64 << 20

func newFolder(t *testing.T) *folder {
	t.Helper()
	dir := t.TempDir()
	open := func(name string, flags int) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	f := &folder{memory: open("memory", os.O_RDWR|os.O_CREATE), pages: open("pages", os.O_RDWR|os.O_CREATE)}
	if err := f.memory.Truncate(memorySize); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stub"), Stub(), 0o700); err != nil {
		t.Fatal(err)
	}
	f.stub = open("stub", os.O_RDONLY)
	return f
}

// execute starts a program with nothing open but what it is given.
func execute(t *testing.T, c *exec.Cmd) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() }) //nolint:errcheck // it may have ended
}

// through writes an image and reads it.
func through(t *testing.T, img *Image) *Image {
	t.Helper()
	data, err := img.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, img) {
		t.Errorf("an image that is stored is read as another: %+v, %+v", img, read)
	}
	return read
}

func (f *folder) start(t *testing.T, img *Image, given map[int]*os.File) *exec.Cmd {
	t.Helper()
	given[1], given[2] = os.Stderr, os.Stderr
	allow := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
	s := Start{Image: img, Pages: f.pages, Stub: f.stub, Memory: f.memory, Given: given, Filter: allow, Open: os.Open, Attr: &syscall.SysProcAttr{Setsid: true}}
	c, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() }) //nolint:errcheck // it may have ended
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(c.Process.Pid) + "/task/*/status")
	if err != nil || len(tasks) != len(img.Threads) {
		t.Errorf("it has %d threads instead of %d, %v", len(tasks), len(img.Threads), err)
	}
	for _, task := range tasks {
		if b, err := os.ReadFile(task); err != nil || !strings.Contains(string(b), "Seccomp:\t2\n") {
			t.Errorf("a thread without the filter: %v", err)
		}
	}
	return c
}

// TestSleep saves sleep(1), which has one thread, and has two go on, each to its end.
func TestSleep(t *testing.T) {
	f := newFolder(t)
	c := exec.Command("sleep", "0.7")
	c.Stderr, c.Stdout = os.Stderr, os.Stderr
	execute(t, c)
	img, err := Save(&Subject{PID: c.Process.Pid, Given: []int{1, 2}, Memory: f.memory}, f.pages)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the process goes on when it was saved")
	}
	for range 2 {
		p := f.start(t, through(t, img), map[int]*os.File{})
		line, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/cmdline")
		if string(line) != "sleep\x000.7\x00" || err != nil {
			t.Errorf("its arguments are %q, %v", line, err)
		}
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestRefused saves nothing that has no place in an image, and starts nothing whose files are others.
func TestRefused(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	f := newFolder(t)
	for name, c := range map[string]*exec.Cmd{
		"descriptor 3 is pipe:":      {Path: "/bin/sleep", Args: []string{"sleep", "20"}, ExtraFiles: []*os.File{w}},
		"descriptor 3 is /etc/hosts": {Path: "/bin/sh", Args: []string{"sh", "-c", "exec sleep 20 3</etc/hosts"}},
		"it has children":            {Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 20 & exec sleep 20"}},
	} {
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		execute(t, c)
		time.Sleep(100 * time.Millisecond) // until it sleeps
		if _, err := Save(&Subject{PID: c.Process.Pid, Given: []int{1, 2}, Memory: f.memory}, f.pages); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v instead of %s", err, name)
		}
		unix.Kill(-c.Process.Pid, unix.SIGKILL)
	}
	c := exec.Command("sleep", "20")
	execute(t, c)
	img, err := Save(&Subject{PID: c.Process.Pid, Given: []int{1, 2}, Memory: f.memory}, f.pages)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Image){
		"has changed":                       func(img *Image) { img.Areas[0].Program.Size++ },
		"nothing is given for descriptor 9": func(img *Image) { img.Files = append(img.Files, File{FD: 9, Kind: kindGiven}) },
		"kind":                              func(img *Image) { img.Files = append(img.Files, File{FD: 9, Kind: "other"}) },
		"registers":                         func(img *Image) { img.Threads[0].Regs = nil },
		"system call 9 ":                    func(img *Image) { img.Areas[0].Start |= 7 }, // mmap
		"the kernel's own mappings":         func(img *Image) { img.Areas, img.Runs = img.Areas[:2], nil },
	} {
		other := through(t, img)
		change(other)
		s := Start{Image: other, Pages: f.pages, Stub: f.stub, Memory: f.memory, Given: map[int]*os.File{1: os.Stderr, 2: os.Stderr}, Open: os.Open}
		if p, err := s.Run(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				p.Process.Kill()
			}
		}
	}
	words := func(v ...uint64) string { return base64.StdEncoding.EncodeToString(words(v...)) }
	for bad, why := range map[string]string{
		"": "JSON", "{}": "no threads", `{"Soon":"AA"}`: "illegal base64",
		`{"Runs":"` + words(0, 1, 2, 3) + `"}`: "pages of mapping 0 of 0", `{"Runs":"` + words(1<<63, 1, 2, 3) + `"}`: "pages of mapping 9223372036854775808 of 0",
		`{"Areas":"` + words(1, 2, 3, 1, 5) + `"}`: "does not have", `{"Areas":"` + words(1, 2, 3, 1<<32, 5) + `"}`: "does not have",
		`{"Areas":"` + words(1, 2, 3) + `"}`: "rows of 5", `{"Runs":"` + words(1) + `"}`: "rows of 4", `{"Soon":"` + words(1) + `"}`: "rows of 2",
	} {
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestEmulator saves QEMU, which has several threads and much else, and has three go on at once. None writes to what they share, and none could.
func TestEmulator(t *testing.T) {
	const qemu = "/usr/bin/qemu-system-x86_64"
	if _, err := os.Stat(qemu); err != nil {
		t.Skip(qemu + " is not installed, and it is what is saved here: make setup-vm installs it")
	}
	f := newFolder(t)
	ours, theirs := pair(t)
	c := exec.Command(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc,memory-backend=ram", "-m", "64M", "-accel", "tcg,thread=multi", "-smp", "2",
		"-object", "memory-backend-file,id=ram,size=64M,mem-path=/proc/self/fd/4,share=on", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	c.ExtraFiles, c.Stdout, c.Stderr = []*os.File{theirs, f.memory}, os.Stderr, os.Stderr
	execute(t, c)
	q, err := qmp.Dial(ours, time.Now().Add(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Do("stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.Begin("cont"); err != nil {
		t.Fatal(err)
	}
	img, err := Save(&Subject{PID: c.Process.Pid, Given: []int{1, 2, 3}, Closed: []int{4}, Memory: f.memory}, f.pages)
	if err != nil {
		t.Fatal(err)
	}
	before := f.sums(t)
	f.readOnly(t)
	var all []*qmp.Client
	var running []*exec.Cmd
	for range 3 {
		ours, theirs := pair(t)
		running = append(running, f.start(t, through(t, img), map[int]*os.File{3: theirs}))
		again, err := qmp.Resume(ours, time.Now().Add(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		all = append(all, again)
	}
	for i, q := range all {
		var s struct{ Status string }
		if err := q.Do("query-status", nil, &s); err != nil || s.Status != "running" {
			t.Errorf("the machine is %q, %v", s.Status, err)
		}
		if err := q.Do("quit", nil, nil); err != nil {
			t.Error(err)
		}
		if err := running[i].Wait(); err != nil { // all its threads end
			t.Error(err)
		}
	}
	if after := f.sums(t); after != before {
		t.Errorf("the files of the image were %v and are %v", before, after)
	}
}

// readOnly has the files open for reading alone.
func (f *folder) readOnly(t *testing.T) {
	t.Helper()
	for _, file := range []**os.File{&f.memory, &f.pages} {
		r, err := os.Open((*file).Name())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		*file = r
	}
}

// sums are the files' contents.
func (f *folder) sums(t *testing.T) (sums [2][sha256.Size]byte) {
	t.Helper()
	for i, file := range []*os.File{f.memory, f.pages} {
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(b)
	}
	return sums
}

// pair is a connection of QMP, and QEMU's end of it.
func pair(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	ours, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); theirs.Close() })
	return c.(*net.UnixConn), theirs
}
