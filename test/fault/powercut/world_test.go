package powercut

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/image/imagetest"
	"brig/internal/store/erofs"
	"brig/internal/store/snapshot"
	"brig/test/machine"
)

const patience = 30 * time.Second // of a command

func TestMain(m *testing.M) {
	Child()
	helper()
	if os.Geteuid() == 0 {
		if err := errors.Join(machine.Programs("../../../bin"), machine.Private(false)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// whole reports whether all points are asked for, and not a sample of them.
func whole() bool { return os.Getenv("BRIG_POWERCUT") == "whole" }

// world is a registry, archives, and a disk in memory for what cuts leave.
type world struct {
	t        testing.TB
	dir      string // on a tmpfs of its own
	ram      string // the tmpfs, while dir is elsewhere
	registry *imagetest.Store
	host     string
	serial   atomic.Int64
	// containers is held while a container runs whose ID others have as well.
	containers sync.Mutex
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting, and containers, need root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("a file system in user space: %v", err)
	}
	for _, p := range []string{"brig", "brig-oci", "brig-image"} { // go test's cache notices when they change
		if _, err := os.Stat(machine.Program(p)); err != nil {
			t.Fatalf("%v: make build", err)
		}
	}
	w := &world{t: t, dir: t.TempDir(), registry: imagetest.New()}
	if err := unix.Mount("powercut", w.dir, "tmpfs", 0, "size=4g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(w.dir, unix.MNT_DETACH) })
	t.Setenv("HOME", w.place("home"))
	t.Setenv("DOCKER_CONFIG", w.place("docker"))
	server := httptest.NewServer(w.registry)
	t.Cleanup(server.Close)
	w.host = strings.TrimPrefix(server.URL, "http://")
	w.images()
	return w
}

// onDisk lets the stores of a test lie on an ext4 without a journal, from whose files, unlike a tmpfs's, the kernel mounts packed layers. It skips where the kernel
// mounts from no file at all.
func (w *world) onDisk(t *testing.T) {
	t.Helper()
	file, dir, before := filepath.Join(w.dir, "scratch"), w.place("scratch"), w.dir
	w.ram = w.dir
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 2<<30)); err != nil {
		t.Fatal(err)
	}
	w.tool("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", file)
	w.tool("mount", "-o", "loop,noatime,nobarrier", file, dir)
	w.dir = dir
	t.Cleanup(func() {
		w.dir = before
		w.unmountDisk(dir)
		os.Remove(file)
	})
	if !snapshot.Open(w.place("probe")).Packs(erofs.Deflate) {
		t.Skip("this kernel mounts no file system from a file (Linux 6.12, CONFIG_EROFS_FS_BACKED_BY_FILE)")
	}
}

// begin makes the world one of a subtest.
func (w *world) begin(t *testing.T, s story) {
	w.t = t
	if s.packed {
		w.onDisk(t)
	}
}

// place makes a new empty folder.
func (w *world) place(what string) string {
	dir := filepath.Join(w.dir, fmt.Sprintf("%s%d", what, w.serial.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// images puts into the registry: one, two and new, of three or four layers each, of which they share some, and huge, which has two layers that are.
func (w *world) images() {
	random := rand.NewChaCha8([32]byte{7})
	noise := func(n int) string {
		b := make([]byte, n)
		random.Read(b)
		return string(b)
	}
	base := layer(
		&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, "",
		&tar.Header{Name: "bin/alive", Mode: 0o4755}, string(alive()),
		&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, "",
		&tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/:/bin/alive\n",
		&tar.Header{Name: "old/", Typeflag: tar.TypeDir, Mode: 0o755}, "",
		&tar.Header{Name: "old/file", Mode: 0o644}, "hidden later",
		&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, "",
	)
	big := layer(
		&tar.Header{Name: "data/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4}, "",
		&tar.Header{Name: "data/big", Mode: 0o600, Uid: 3, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "kept"}}, noise(300_000),
		&tar.Header{Name: "data/same", Typeflag: tar.TypeLink, Linkname: "data/big"}, "",
		&tar.Header{Name: "data/link", Typeflag: tar.TypeSymlink, Linkname: "big", Mode: 0o777}, "",
	)
	marks := layer(
		&tar.Header{Name: "old/.wh.file", Mode: 0o644}, "",
		&tar.Header{Name: "etc/.wh..wh..opq", Mode: 0o644}, "",
		&tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:other:/:/bin/alive\n",
	)
	small := func(name string) []byte {
		return layer(&tar.Header{Name: "srv/", Typeflag: tar.TypeDir, Mode: 0o755}, "", &tar.Header{Name: "srv/" + name, Mode: 0o644}, noise(5000))
	}
	// From 4 MiB on a layer is kept packed, as one file; one of zstd otherwise than one of gzip.
	packed := layer(&tar.Header{Name: "zstd/", Typeflag: tar.TypeDir, Mode: 0o755}, "", &tar.Header{Name: "zstd/file", Mode: 0o644}, noise(4<<20+200_000))
	pack := func(l []byte) []byte {
		if bytes.HasPrefix(l, []byte("zstd/")) {
			return imagetest.Zstd(l)
		}
		return imagetest.Gzip(l)
	}
	huge := layer(&tar.Header{Name: "huge/", Typeflag: tar.TypeDir, Mode: 0o755}, "", &tar.Header{Name: "huge/file", Mode: 0o644}, noise(4<<20+100_000))
	for tag, layers := range map[string][][]byte{"huge": {base, huge, packed}, "one": {base, big, marks, small("one")}, "two": {base, big, small("two")}, "new": {base, small("new"), marks}} {
		p := w.registry.OCI(pack, layers...)
		p.Config.Architecture = runtime.GOARCH
		p.Config.Config.Cmd = []string{"/bin/alive"}
		d := w.registry.PutImage(p, "")
		d.Platform = &p.Config.Platform
		w.registry.Index(tag, d)
	}
}

// layer is a tar of headers, each followed by its content.
func layer(list ...any) []byte {
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for i := 0; i < len(list); i += 2 {
		h, text := list[i].(*tar.Header), list[i+1].(string)
		h.Size, h.ModTime = int64(len(text)), time.Unix(1_700_000_000+int64(i), 0)
		if err := errors.Join(out.WriteHeader(h), func() error { _, err := out.Write([]byte(text)); return err }()); err != nil {
			panic(err)
		}
	}
	out.Close()
	return b.Bytes()
}

// alive is a program that says "alive": an ELF file of some 160 bytes, so that a store stays small.
func alive() []byte {
	machine, code := uint16(62), []byte{
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 21, 0, 0, 0, // lea rsi, [the text]
		0xba, 6, 0, 0, 0, // mov edx, 6
		0xb8, 1, 0, 0, 0, // mov eax, write
		0x0f, 5, // syscall
		0x31, 0xff, // xor edi, edi
		0xb8, 60, 0, 0, 0, // mov eax, exit
		0x0f, 5, // syscall
	}
	if runtime.GOARCH == "arm64" {
		machine, code = 183, nil
		for _, word := range []uint32{0xd2800020, 0x100000e1, 0xd28000c2, 0xd2800808, 0xd4000001, 0xd2800000, 0xd2800ba8, 0xd4000001} {
			code = binary.LittleEndian.AppendUint32(code, word)
		}
	}
	code = append(code, "alive\n"...)
	var b bytes.Buffer
	const base, header, segment = 0x400000, 64, 56
	for _, v := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, uint16(2), machine, uint32(1), uint64(base + header + segment), uint64(header), uint64(0), uint32(0),
		uint16(header), uint16(segment), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), uint64(header + segment + len(code)), uint64(header + segment + len(code)), uint64(4096),
	} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	return append(b.Bytes(), code...)
}

// run runs a command to its end; with f, its syncs are operations of f.
func (w *world) run(f *FS, cmd *exec.Cmd) machine.Result {
	w.t.Helper()
	start := cmd.Start
	if f != nil {
		start = func() error { return f.Start(cmd) }
	}
	r, err := machine.Run(cmd, patience, start)
	if err != nil {
		w.t.Error(err)
	}
	return r
}

// must is run for what must succeed.
func (w *world) must(f *FS, cmd *exec.Cmd) machine.Result {
	w.t.Helper()
	what := strings.Join(cmd.Args[1:], " ")
	r := w.run(f, cmd)
	if r.Code != 0 {
		w.t.Errorf("brig %s: %s", what, r)
	}
	return r
}

// mounted mounts a file system that is unmounted at the test's end.
func (w *world) mounted(tree *Tree) (*FS, string) {
	w.t.Helper()
	dir := w.place("fuse")
	f, err := Mount(dir, tree)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Unmount() })
	return f, dir
}

// settle waits until the control groups and sandboxes of a root's containers are gone: a shim, and then brig reap, removes them behind the command's back, and copies
// of one container have one ID, and one group. ids are those that there were before. With state "" sandboxes may stay.
func (w *world) settle(root, state string, ids []string) {
	w.t.Helper()
	busy := func(id string) bool {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/brig-" + id)
		_, err := os.Stat(filepath.Join(state, "sandbox", id))
		return len(groups) > 0 || err == nil
	}
	for deadline := time.Now().Add(5 * time.Second); slices.ContainsFunc(ids, busy); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Errorf("five seconds later one of the containers %v of %s still has a control group or a sandbox", ids, root)
			return
		}
	}
}

// mustBeUnmounted waits until nothing is mounted below a state folder: the last container that used a packed layer takes its mount along.
func (w *world) mustBeUnmounted(state string) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			w.t.Fatal(err)
		}
		left := false
		for line := range strings.Lines(string(mounts)) {
			at := strings.Fields(line)[4]
			switch {
			case strings.HasPrefix(at, state+"/layer/") && strings.Contains(line, " - erofs "): // which stays as long as its image
				unix.Unmount(at, unix.MNT_DETACH)
			case strings.HasPrefix(at, state+"/"):
				left = true
			}
		}
		if !left {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("five seconds after the last container something is still mounted below %s", state)
			for line := range strings.Lines(string(mounts)) {
				if fields := strings.Fields(line); strings.HasPrefix(fields[4], state+"/") {
					unix.Unmount(fields[4], unix.MNT_DETACH)
				}
			}
			return
		}
	}
}

// drop removes a state folder, and what is mounted below it: packed layers, which stay as long as their images.
func (w *world) drop(state string) {
	w.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], state+"/") {
			unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
	os.RemoveAll(state)
}

// containerIDs lists the containers of a root.
func containerIDs(root string) []string {
	names, _ := filepath.Glob(filepath.Join(root, "container", "[0-9a-f]*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names
}
