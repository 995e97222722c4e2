package fault

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"brig/test/machine"
)

// depot is a registry with images that can be run and share layers, and the same images as archives.
type depot struct {
	host     string
	archives []string
}

// stock makes n images: the base image with one, two or three random layers on top, of which neighbours share the lower ones.
func stock(w *world, n, layerSize int) depot {
	w.t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	w.t.Cleanup(server.Close)
	d := depot{host: strings.TrimPrefix(server.URL, "http://")}
	dir := w.t.TempDir()
	saved := filepath.Join(dir, "base.tar")
	w.must("save", "-o", saved, "brig/base")
	base, err := tarball.ImageFromPath(saved, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	pool := make([]v1.Layer, n+2)
	for i := range pool {
		if pool[i], err = random.Layer(int64(layerSize+i), types.DockerLayer); err != nil {
			w.t.Fatal(err)
		}
	}
	for i := range n {
		img, err := mutate.AppendLayers(base, pool[i:i+1+i%3]...)
		if err != nil {
			w.t.Fatal(err)
		}
		if img, err = mutate.Config(img, labelled(img, strconv.Itoa(i))); err != nil {
			w.t.Fatal(err)
		}
		ref, err := name.ParseReference(fmt.Sprintf("%s/img:%d", d.host, i), name.Insecure)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			w.t.Fatal(err)
		}
		file := filepath.Join(dir, strconv.Itoa(i)+".tar")
		if err := tarball.WriteToFile(file, ref, img); err != nil {
			w.t.Fatal(err)
		}
		d.archives = append(d.archives, file)
	}
	return d
}

func labelled(img v1.Image, n string) v1.Config {
	f, err := img.ConfigFile()
	if err != nil {
		return v1.Config{}
	}
	c := *f.Config.DeepCopy()
	c.Labels = map[string]string{"n": n, "parity": strconv.Itoa(int(n[len(n)-1]-'0') % 2)}
	return c
}

func (d depot) image(i int) string { return fmt.Sprintf("%s/img:%d", d.host, i) }

// act does one random thing to the store. No ending of it is an error but a crash: others do things too.
func (d depot) act(w *world, r *rand.Rand) (did string, res machine.Result) {
	i := r.IntN(len(d.archives))
	img := d.image(i)
	ctr := fmt.Sprintf("ct%d", r.IntN(8))
	var args []string
	switch n := r.IntN(100); {
	case n < 18:
		args = []string{"pull", "-q", img}
	case n < 26:
		args = []string{"load", "-q", "-i", d.archives[i]}
	case n < 33:
		args = []string{"tag", img, fmt.Sprintf("tag:%d", r.IntN(4))}
	case n < 45:
		args = []string{"run", "--rm", "--network", "none", img, "true"}
	case n < 57:
		args = []string{"run", "--name", ctr, "--network", "none", "-v", "/data", img, "sh", "-c", "head -c 100000 /dev/urandom >/x; echo said; echo in >/data/y"}
	case n < 60:
		args = []string{"create", "--name", ctr, img, "true"}
	case n < 65:
		args = []string{"rm", "-f", "-v", ctr}
	case n < 68:
		args = []string{"rm", "-f", ctr}
	case n < 76:
		args = []string{"rmi", img}
	case n < 79:
		args = []string{"rmi", "-f", fmt.Sprintf("tag:%d", r.IntN(4))}
	case n < 84:
		args = []string{"system", "prune", "-f"}
	case n < 87:
		args = []string{"image", "prune", "-a", "-f", "--filter", "label=parity=" + strconv.Itoa(r.IntN(2))}
	case n < 90:
		args = []string{"container", "prune", "-f"}
	case n < 92:
		args = []string{"system", "prune", "-a", "-f", "--volumes"}
	case n < 94:
		args = []string{"system", "df", "-v"}
	default:
		args = []string{"save", "-o", os.DevNull, img}
	}
	did = strings.Join(args, " ")
	if r.IntN(4) > 0 {
		return did, w.brig(args...)
	}
	// Killed in the middle: the command with its worker, or the command alone.
	cmd := w.command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.t.Error(err)
		return did, machine.Result{}
	}
	time.Sleep(time.Duration(r.IntN(60_000)) * time.Microsecond)
	if r.IntN(3) > 0 {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	} else {
		cmd.Process.Kill()
	}
	cmd.Wait()
	return did + " (killed)", machine.Result{}
}

// quiet waits until no program of Brig runs any more.
func (w *world) quiet() {
	w.t.Helper()
	var last string
	err := eventually(func() error {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range lines {
			line, err := os.ReadFile(f)
			program, _, _ := bytes.Cut(line, []byte{0})
			if err == nil && strings.HasPrefix(filepath.Base(string(program)), "brig") {
				last = strings.ReplaceAll(string(line), "\x00", " ")
				return os.ErrExist
			}
		}
		return nil
	})
	if err != nil {
		w.t.Errorf("still runs: %s", last)
	}
}

// addsUp holds df against du, and wants check to find no damage.
func (w *world) addsUp(when string) {
	w.t.Helper()
	w.quiet()
	sum := int64(0)
	out := w.must("system", "df", "--format", "{{.SizeBytes}}")
	for _, line := range strings.Fields(out) {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			w.t.Fatalf("df: %q", out)
		}
		sum += n
	}
	du, err := exec.Command("du", "-s", "--block-size=1", w.root).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	want, err := strconv.ParseInt(strings.Fields(string(du))[0], 10, 64)
	if err != nil || sum < want-want/100 || sum > want+want/100 {
		w.t.Errorf("%s: df adds up to %d, du says %d\n%s", when, sum, want, w.must("system", "df", "-v"))
	}
	if r := w.brig("system", "check"); r.Code != 0 || !strings.Contains(r.Out, "all is well") {
		w.t.Errorf("%s: check: %s", when, r)
	}
}

// isEmpty wants that prune has left nothing but what a store has that was just made.
func (w *world) isEmpty() {
	w.t.Helper()
	w.removeAll()
	w.quiet()
	w.must("system", "prune", "-a", "-f", "--volumes")
	w.addsUp("after prune -a")
	filepath.WalkDir(w.root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(w.root, path)
		switch {
		case err != nil, d.IsDir():
		case rel == "version", rel == "content/oci-layout", rel == "network/bridge.json", rel == "reserve/ledger", rel == "settings.json":
		case strings.HasSuffix(rel, ".lock"), rel == "container/.making":
		case rel == "content/index.json":
			if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("sha256:")) {
				w.t.Errorf("prune -a left names: %s", b)
			}
		default:
			w.t.Errorf("prune -a left %s", rel)
		}
		return nil
	})
	for _, dir := range []string{"snapshot/layer", "snapshot/active", "snapshot/unpack", "volume", "container", "trash", "lease"} {
		entries, _ := os.ReadDir(filepath.Join(w.root, dir))
		for _, e := range entries {
			if e.IsDir() {
				w.t.Errorf("prune -a left %s/%s", dir, e.Name())
			}
		}
	}
}

// crashed reports a command that ended as none should.
func crashed(w *world, did string, r machine.Result) {
	if r.Code == 2 || strings.Contains(r.Err, "panic") || strings.Contains(r.Err, "goroutine ") {
		w.t.Errorf("%s: %s", did, r)
	}
}

// TestStoreAddsUp does random things to a store, one after another and at the same time, kills some in the middle, and holds the store to it that
// df is du, that nothing is damaged, and that prune gives all back.
func TestStoreAddsUp(t *testing.T) {
	w := newWorld(t)
	d := stock(w, 6, 60_000)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BRIG_FAULT_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("BRIG_FAULT_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	ops := 250 * scale()
	worked := map[string]int{}
	for i := range ops {
		did, res := d.act(w, r)
		if res.Code == 0 && !strings.HasSuffix(did, "(killed)") {
			worked[strings.Fields(did)[0]]++
		}
		crashed(w, did, res)
		if i%50 == 49 {
			w.addsUp(fmt.Sprintf("after %d, last %s", i+1, did))
		}
		if t.Failed() {
			return
		}
	}
	w.isEmpty()
	t.Logf("succeeded: %v", worked)
	for _, verb := range []string{"pull", "load", "tag", "run", "rm", "rmi", "image", "system"} {
		if worked[verb] == 0 {
			t.Errorf("no %s of %d operations succeeded", verb, ops)
		}
	}
	if t.Failed() {
		return
	}
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(n)+2))
			for range 40 * scale() {
				did, res := d.act(w, r)
				crashed(w, did, res)
			}
		})
	}
	all.Wait()
	w.addsUp("after four at a time")
	w.isEmpty()
}

// TestPruneBesideRuns: whoever runs an image gets it, though others prune it all the time.
func TestPruneBesideRuns(t *testing.T) {
	w := newWorld(t)
	d := stock(w, 2, 20_000)
	w.must("pull", "-q", d.image(0))
	if _, err := os.Stat(filepath.Join(w.root, "lease")); err != nil {
		t.Skip("transfers take no lease yet: what they bring in may be pruned on its way")
	}
	stop := make(chan struct{})
	var pruner, all sync.WaitGroup
	pruner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if r := w.brig("image", "prune", "-a", "-f"); r.Code != 0 {
					t.Errorf("prune: %s", r)
				}
			}
		}
	})
	for n := range 3 {
		all.Go(func() {
			for range 15 * scale() {
				if r := w.brig("run", "--rm", "--network", "none", d.image(n%2), "echo", "ran"); r.Code != 0 || r.Out != "ran\n" {
					t.Errorf("run: %s", r)
				}
			}
		})
	}
	all.Wait()
	close(stop)
	pruner.Wait()
	w.isEmpty()
}

// TestBitFlips turns a bit of every kind of file in the store. No command crashes, other images run on, check names what is damaged, and repairs it
// from the registry.
func TestBitFlips(t *testing.T) {
	for _, layers := range []string{"folder", "image"} {
		t.Run(layers, func(t *testing.T) {
			t.Setenv("BRIG_LAYERS", layers)
			bitFlips(t, layers == "image")
		})
	}
}

func bitFlips(t *testing.T, packed bool) {
	w := newWorld(t)
	d := stock(w, 2, 50_000)
	w.must("pull", "-q", d.image(0))
	w.must("system", "limit", "1g")
	w.must("run", "--name", "kept", "--network", "none", "-v", "/data", "brig/base", "true")
	kinds := map[string]string{ // by the pattern of their paths
		"blob":      "content/blobs/sha256/*",
		"record":    "image/" + strings.NewReplacer("/", "%2F").Replace(d.image(0)) + ".json",
		"base":      "image/*brig%2Fbase*.json",
		"index":     "content/index.json",
		"marker":    "content/oci-layout",
		"layer":     "snapshot/layer/*/fs/bin/busybox",
		"size":      "snapshot/layer/*/size",
		"version":   "version",
		"settings":  "settings.json",
		"volume":    "volume/*/volume.json",
		"container": "container/*/record.json",
	}
	if packed {
		delete(kinds, "layer")
		delete(kinds, "size")
		kinds["image"], kinds["recipe"] = "snapshot/layer/*/image", "snapshot/layer/*/recipe"
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for kind, pattern := range kinds {
		files, err := filepath.Glob(filepath.Join(w.root, pattern))
		if err != nil || len(files) == 0 {
			t.Errorf("%s: no file %s", kind, pattern)
			continue
		}
		slices.Sort(files)
		for range 4 * scale() {
			path := files[r.IntN(len(files))]
			undo := flip(t, path, r)
			if res := w.brig("system", "check", "--format", "json"); res.Code != 1 && kind != "index" || !strings.Contains(res.Out, `"trouble"`) {
				// A name in index.json that is another, and none of the image, is also what two killed processes leave.
				t.Errorf("%s: %s is damaged, and check says %s", kind, path, res)
			}
			for _, args := range [][]string{{"ps", "-a"}, {"images"}, {"system", "df"}, {"inspect", "kept"}, {"image", "prune", "-f"}, {"info"}} {
				crashed(w, kind+": "+strings.Join(args, " "), w.brig(args...))
			}
			if kind != "base" && kind != "layer" && kind != "version" && kind != "size" && kind != "blob" && kind != "image" && kind != "recipe" {
				w.must("run", "--rm", "--network", "none", "brig/base", "true")
			}
			w.quiet()
			res := w.brig("system", "check", "--repair")
			if kind == "container" {
				if res.Code != 1 || !strings.Contains(res.Out, "rm -f") {
					t.Errorf("container: %s", res)
				}
				undo()
			} else if res.Code != 0 {
				t.Errorf("%s: %s is not repaired: %s", kind, path, res)
				undo()
			}
			if res := w.brig("system", "check"); res.Code != 0 {
				t.Errorf("%s: after the repair: %s", kind, res)
			}
			w.must("system", "limit", "1g")
			w.must("run", "--rm", "--network", "none", d.image(0), "true")
			if t.Failed() {
				return
			}
			if files, _ = filepath.Glob(filepath.Join(w.root, pattern)); len(files) == 0 {
				t.Fatalf("%s: no file %s any more", kind, pattern)
			}
		}
	}
	w.must("rm", "-v", "kept")
	w.must("system", "limit", "none")
	// The volume's record was made anew as that of a named one.
	os.RemoveAll(filepath.Join(w.root, "volume"))
}

// TestRepairIsWhatRuns: a layer that was damaged while it was mounted is read anew once it is repaired, and a layer that only a container keeps is looked at too.
func TestRepairIsWhatRuns(t *testing.T) {
	t.Setenv("BRIG_LAYERS", "image")
	w := newWorld(t)
	if images, _ := filepath.Glob(filepath.Join(w.root, "snapshot/layer/*/image")); len(images) != 1 {
		t.Skip("this kernel mounts no layers that are images, or does not read them right")
	}
	image := func() string {
		all, _ := filepath.Glob(filepath.Join(w.root, "snapshot/layer/*/image"))
		return all[0]
	}
	mounted := func() string { // the file systems of layers, by their device numbers
		var all []string
		lines, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(lines)) {
			if f := strings.Fields(line); strings.Contains(line, " - erofs "+w.root) {
				all = append(all, f[2])
			}
		}
		return strings.Join(all, " ")
	}
	damage := func() {
		f, err := os.OpenFile(image(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		f.ReadAt(b, 900_000)
		b[0] ^= 4
		f.WriteAt(b, 900_000)
	}
	good := w.must("run", "--rm", "--network", "none", "brig/base", "sha256sum", "/bin/busybox")
	// What a container runs on is not taken from under it.
	w.must("run", "-d", "--name", "busy", "--network", "none", "brig/base", "sleep", "600")
	before := mounted()
	if before == "" {
		t.Fatal("no layer is mounted")
	}
	damage()
	if r := w.brig("system", "check", "--repair"); r.Code != 1 || !strings.Contains(r.Out, "busy runs on layer") || mounted() != before {
		t.Errorf("while a container runs: %s", r)
	}
	w.must("rm", "-f", "busy")
	// Nothing of what was damaged stays mounted, so the next to run mounts what was brought in. (Its device number may be the same again.)
	if r := w.brig("system", "check", "--repair"); r.Code != 0 || mounted() != "" {
		t.Errorf("repair: %s; still mounted: %s", r, mounted())
	}
	sum := w.must("run", "--rm", "--network", "none", "brig/base", "sha256sum", "/bin/busybox")
	if mounted() == "" || sum != good {
		t.Errorf("after the repair: mounted %q, busybox %q, was %q", mounted(), sum, good)
	}

	// The image goes, a container keeps the layer, which is damaged then.
	w.must("create", "--name", "keeper", "--network", "none", "brig/base", "true")
	w.must("rmi", "-f", "brig/base")
	damage()
	if r := w.brig("system", "check", "--repair"); r.Code != 1 || !strings.Contains(r.Out, "a container alone needs it") {
		t.Errorf("a container's layer: %s", r)
	}
	w.must("pull", "-q", "brig/base")
	if r := w.brig("system", "check", "--repair"); r.Code != 0 {
		t.Errorf("with the image there: %s", r)
	}
	if r := w.brig("system", "check"); r.Code != 0 || !strings.Contains(r.Out, "all is well") {
		t.Errorf("after all: %s", r)
	}
	w.must("start", "-a", "keeper")
	w.isEmpty()
}

// TestRepairPutsBack: what cannot be brought in again is as it was, damage and all; and of a layer that two images have, packed otherwise by each, both are sound
// after the repair.
func TestRepairPutsBack(t *testing.T) {
	t.Setenv("BRIG_LAYERS", "image")
	w := newWorld(t)
	d := stock(w, 1, 50_000)
	w.must("pull", "-q", d.image(0)) // its lowest layer is that of brig/base, compressed
	layers, _ := filepath.Glob(filepath.Join(w.root, "snapshot/layer/*/image"))
	if len(layers) < 2 {
		t.Skip("this kernel mounts no layers that are images, or does not read them right")
	}
	r := rand.New(rand.NewPCG(7, 1))
	for range 2 * scale() {
		for _, path := range layers {
			flip(t, path, r)
			if res := w.brig("system", "check", "--repair"); res.Code != 0 {
				t.Errorf("%s: %s", path, res)
			}
			if res := w.brig("system", "check"); res.Code != 0 {
				t.Errorf("after the repair of %s: %s", path, res)
			}
			for _, img := range []string{"brig/base", d.image(0)} {
				w.must("run", "--rm", "--network", "none", img, "true")
				w.must("save", "-o", os.DevNull, img)
			}
		}
	}

	// An image whose registry has gone.
	w.must("rmi", d.image(0))
	w.must("load", "-q", "-i", d.archives[0])
	w.must("tag", d.image(0), "127.0.0.1:1/gone:1")
	w.must("rmi", d.image(0))
	var own string // the layer that brig/base has not
	for _, path := range layers {
		if info, err := os.Stat(path); err == nil && info.Size() < 1<<20 {
			own = path
		}
	}
	undo := flip(t, own, rand.New(rand.NewPCG(8, 1)))
	before, _ := os.ReadFile(own)
	res := w.brig("system", "check", "--repair")
	if res.Code != 1 || !strings.Contains(res.Out, "could not be brought in again") {
		t.Errorf("without a registry: %s", res)
	}
	if after, err := os.ReadFile(own); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was not put back: %v", err)
	}
	undo()
	if res := w.brig("system", "check"); res.Code != 0 || !strings.Contains(res.Out, "all is well") {
		t.Errorf("with the bit turned back: %s", res)
	}
	w.must("run", "--rm", "--network", "none", "127.0.0.1:1/gone:1", "true")
	w.isEmpty()
}

// flip turns one bit of a file, and returns what turns it back.
func flip(t *testing.T, path string, r *rand.Rand) func() {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 {
		t.Fatalf("%s: %v", path, err)
	}
	at, bit := r.Int64N(info.Size()), byte(1)<<r.IntN(7)
	turn := func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return // replaced by the repair
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err == nil {
			b[0] ^= bit
			f.WriteAt(b, at)
		}
	}
	turn()
	return turn
}

// TestCareOnAFullDisk: prune and check work on a disk without a block left, and prune makes room.
func TestCareOnAFullDisk(t *testing.T) {
	needRoot(t)
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "small")
			if kind == "tmpfs" {
				smallDisk(t, disk, "48m")
			} else {
				loopDisk(t, disk, "48M")
			}
			careOnAFullDisk(t, disk)
		})
	}
}

// loopDisk mounts an ext4 in a file.
func loopDisk(t *testing.T, dir, size string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"truncate", "-s", size, dir + ".ext4"}, {"mkfs.ext4", "-q", "-m", "0", dir + ".ext4"}, {"mount", "-o", "loop", dir + ".ext4", dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
}

func careOnAFullDisk(t *testing.T, disk string) {
	root := filepath.Join(disk, "root")
	w := newWorldAt(t, root)
	d := stock(w, 3, 3_000_000)
	for i := range 3 {
		w.must("pull", "-q", d.image(i))
	}
	filler := fill(t, disk)
	if r := w.brig("system", "check"); r.Code != 0 {
		t.Errorf("check: %s", r)
	}
	w.must("system", "df")
	if r := w.brig("image", "prune", "-a", "-f"); r.Code != 0 || !strings.Contains(r.Out, "deleted: ") {
		t.Errorf("prune: %s", r)
	}
	os.Remove(filler)
	w.must("pull", "-q", d.image(0))
	w.must("system", "prune", "-f")
	if r := w.brig("system", "check"); r.Code != 0 || !strings.Contains(r.Out, "all is well") {
		t.Errorf("check: %s", r)
	}
	w.isEmpty()
}
