package meta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/jsonscan"
	"brig/internal/base/lock"

	"golang.org/x/sys/unix"
)

// The test binary is also the process that works beside the test: with childEnv set to a store's folder it does what its arguments say.
const childEnv = "BRIG_TEST_META"

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		if err := child(Open(root), os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(s *Store, verb string) error {
	switch verb {
	case "race": // take and free one name again and again; while it is ours, it must be
		for won := 0; won < 20; {
			c := container("wanted")
			err := s.CreateContainer(c, atomicfile.Volatile)
			if errors.Is(err, api.Conflict) {
				continue
			}
			if err != nil {
				return err
			}
			won++
			if got, err := s.Container("wanted"); err != nil || got.ID != c.ID {
				return fmt.Errorf("held by %s, not %s: %v", got.ID, c.ID, err)
			}
			if err := s.RemoveContainer(c.ID); err != nil {
				return err
			}
		}
		return nil
	case "forever": // until killed
		for i := 0; ; i++ {
			c := container(fmt.Sprint("c", i%3))
			err := s.CreateContainer(c, atomicfile.Volatile)
			if err == nil {
				err = s.RemoveContainer(c.ID)
			}
			if err != nil {
				return err
			}
			if i == 0 {
				fmt.Println("begun")
			}
		}
	}
	return errors.New("no such verb")
}

func command(root, verb string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", verb)
	cmd.Env = append(os.Environ(), childEnv+"="+root)
	cmd.Stderr = os.Stderr
	return cmd
}

func container(name string) api.Container {
	return api.Container{ID: id.New(), Name: name, Created: time.Unix(1e9, 0).UTC(), Image: "sha256:x", Args: []string{"true"}}
}

func create(t testing.TB, s *Store, c api.Container) api.Container {
	t.Helper()
	if err := s.CreateContainer(c, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	return c
}

// nothingLeft fails when a container or a name is there.
func nothingLeft(t *testing.T, s *Store) {
	t.Helper()
	for _, sub := range []string{containerDir, nameDir} {
		names, _ := readNames(filepath.Join(s.root, sub))
		for _, n := range names {
			if n != ".lock" && n != makingFile {
				t.Errorf("left: %s/%s", sub, n)
			}
		}
	}
}

func TestContainer(t *testing.T) {
	for _, sync := range []atomicfile.Sync{atomicfile.Volatile, atomicfile.Durable} {
		s := Open(filepath.Join(t.TempDir(), "root"))
		c := container("web")
		c.Link, c.State = &api.Link{Network: "bridge"}, api.State{Status: api.StatusRunning, Pid: 7}
		if err := s.CreateContainer(c, sync); err != nil {
			t.Fatal(err)
		}
		want := c
		want.Link, want.State = nil, api.State{}
		for _, key := range []string{"web", c.ID, c.ID[:12], c.ID[:1]} {
			if got, err := s.Container(key); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, %v", key, got, err)
			}
		}
		want.Args = []string{"false"}
		if err := s.PutContainer(want, sync); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Container("web"); err != nil || got.Args[0] != "false" {
			t.Error(got, err)
		}
		if err := s.CreateContainer(c, sync); !errors.Is(err, api.AlreadyExists) {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir(c.ID), "log"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.RemoveContainer(c.ID); err != nil {
				t.Fatal(err)
			}
		}
		nothingLeft(t, s)
		if err := s.PutContainer(c, sync); !errors.Is(err, api.NotFound) {
			t.Error(err)
		}
		nothingLeft(t, s)
	}
}

func TestContainerLookup(t *testing.T) {
	s := Open(t.TempDir())
	if _, err := s.Container("none"); !errors.Is(err, api.NotFound) || err.Error() != "no such container: none" {
		t.Error(err)
	}
	a, b := container("one"), container("two")
	a.ID, b.ID = "abc"+a.ID[3:], "abd"+b.ID[3:]
	create(t, s, a)
	create(t, s, b)
	named := container("abc") // a name that is a prefix of another's ID
	named.ID = "0" + named.ID[1:]
	create(t, s, named)
	for key, want := range map[string]string{"abc": named.ID, "abd": b.ID, "abc" + a.ID[3:6]: a.ID, a.ID: a.ID} {
		if got, err := s.Container(key); err != nil || got.ID != want {
			t.Errorf("%s: %s, %v", key, got.ID, err)
		}
	}
	if _, err := s.Container("ab"); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), a.ID) {
		t.Error(err)
	}
	for _, key := range []string{"", ".", "..", "/", "../container", "abe", "ABC", strings.Repeat("a", 64), strings.Repeat("a", 65), "one/record.json", "\x00"} {
		if _, err := s.Container(key); !errors.Is(err, api.NotFound) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if ids, err := s.ContainerIDs(); len(ids) != 3 || ids[0] > ids[1] || err != nil {
		t.Error(ids, err)
	}
}

func TestNames(t *testing.T) {
	s := Open(t.TempDir())
	a := create(t, s, container("web"))
	other := container("web")
	err := s.CreateContainer(other, atomicfile.Volatile)
	if !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), a.ID) {
		t.Error(err)
	}
	if ids, _ := s.ContainerIDs(); len(ids) != 1 {
		t.Error("left:", ids)
	}
	// Renaming is taking the new name, writing the record and freeing the old name.
	for range 2 {
		if err := s.ReserveName("db", a.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ReleaseName("web", other.ID); err != nil { // not the holder
		t.Fatal(err)
	}
	if _, err := s.Container("web"); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.ReleaseName("web", a.ID); err != nil {
			t.Fatal(err)
		}
	}
	create(t, s, other)
	for _, bad := range []string{"", "a", "-a", ".lock", "a/b", "..", "a b", "ä1", "a\x00", strings.Repeat("a", 256)} {
		c := container(bad)
		if err := s.CreateContainer(c, atomicfile.Volatile); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, good := range []string{"a1", "A_.-", "0.0", strings.Repeat("a", 255)} {
		if err := CheckName(good); err != nil {
			t.Error(err)
		}
	}
}

// What a kill leaves at each step is either seen as dead and removable, or not there; and no name stays taken.
func TestDebris(t *testing.T) {
	for name, c := range map[string]struct {
		leave   func(s *Store, c api.Container) error // what the process did before it died
		visible bool
	}{
		"folder": {func(s *Store, c api.Container) error { return os.MkdirAll(s.Dir(c.ID), 0o700) }, true},
		"folder and name": {func(s *Store, c api.Container) error {
			return errors.Join(os.MkdirAll(s.Dir(c.ID), 0o700), s.ReserveName(c.Name, c.ID))
		}, true},
		"half a record": {func(s *Store, c api.Container) error {
			return errors.Join(os.MkdirAll(s.Dir(c.ID), 0o700), s.ReserveName(c.Name, c.ID), os.WriteFile(filepath.Join(s.Dir(c.ID), "record.json.tmp1-1"), []byte("{"), 0o600))
		}, true},
		"name only": {func(s *Store, c api.Container) error { return s.ReserveName(c.Name, c.ID) }, false},
		"removed to the record": {func(s *Store, c api.Container) error {
			return errors.Join(s.CreateContainer(c, atomicfile.Volatile), os.WriteFile(filepath.Join(s.Dir(c.ID), "log"), nil, 0o600), s.ReleaseName(c.Name, c.ID), os.Remove(filepath.Join(s.Dir(c.ID), recordFile)))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := Open(t.TempDir())
			con := container("web")
			if err := c.leave(s, con); err != nil {
				t.Fatal(err)
			}
			if c.visible {
				making, err := lock.Shared(s.makingPath())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Container(con.ID); !errors.Is(err, api.NotFound) {
					t.Error("what is just being made is shown:", err)
				}
				making.Release()
				if got, err := s.Container(con.ID[:12]); err != nil || got.State.Status != api.StatusDead || got.ID != con.ID {
					t.Error(got, err)
				}
				if err := s.RemoveContainer(con.ID); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Container("web"); !errors.Is(err, api.NotFound) {
				t.Error(err)
			}
			next := create(t, s, container("web"))
			if err := s.RemoveContainer(con.ID); err != nil { // once more, and the name has a new holder
				t.Fatal(err)
			}
			if got, err := s.Container("web"); err != nil || got.ID != next.ID {
				t.Error(got.ID, err)
			}
			if err := s.RemoveContainer(next.ID); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, s)
		})
	}
}

func TestNameRace(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := command(root, "race").Run(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	nothingLeft(t, Open(root))
}

// Processes are killed wherever they are; what they leave is removed by removing each container.
func TestKilled(t *testing.T) {
	root := t.TempDir()
	s := Open(root)
	for i := range 12 {
		cmd := command(root, "forever")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 5))
		time.Sleep(time.Duration(i*173) * time.Microsecond)
		cmd.Process.Kill()
		_ = cmd.Wait()
		ids, err := s.ContainerIDs()
		if err != nil {
			t.Fatal(err)
		}
		for _, cid := range ids {
			if _, err := s.Container(cid); err != nil {
				t.Error(err)
			}
			if err := s.RemoveContainer(cid); err != nil {
				t.Error(err)
			}
		}
		for n := range 3 { // every name is free
			c := create(t, s, container(fmt.Sprint("c", n)))
			if err := s.RemoveContainer(c.ID); err != nil {
				t.Error(err)
			}
		}
	}
	nothingLeft(t, s)
}

func TestDamagedRecords(t *testing.T) {
	s := Open(t.TempDir())
	a, b := container("aa"), create(t, s, container("bb"))
	if err := s.CreateContainer(a, atomicfile.Durable); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir(a.ID), recordFile)
	other, err := os.ReadFile(filepath.Join(s.Dir(b.ID), recordFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", `{"id":7}`, `{"id":""}`, string(other), strings.Repeat(" ", maxRecord+1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Container("aa"); !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	// The record tells another's name; that one keeps it.
	if err := os.WriteFile(path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveContainer(a.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Container("bb"); err != nil || got.ID != b.ID {
		t.Error(got, err)
	}
	for _, cid := range []string{"", "..", "abc", "../" + a.ID[3:]} {
		if err := s.RemoveContainer(cid); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", cid, err)
		}
		if err := s.CreateContainer(api.Container{ID: cid, Name: "cc"}, atomicfile.Volatile); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", cid, err)
		}
	}
}

func TestFoldersArePrivate(t *testing.T) {
	for _, mask := range []int{0, 0o077} {
		was := unix.Umask(mask)
		s := Open(filepath.Join(t.TempDir(), "root"))
		c := create(t, s, container("web"))
		err := s.PutImage(image("docker.io/library/x:1", "1"))
		unix.Umask(was)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]os.FileMode{s.root: 0o700, s.root + "/name": 0o700, s.root + "/image": 0o700, s.root + "/container": 0o700, s.Dir(c.ID): 0o700, s.Dir(c.ID) + "/record.json": 0o600} {
			if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != want {
				t.Errorf("umask %o: %s: %v %v", mask, path, fi.Mode(), err)
			}
		}
	}
}

func FuzzRecords(f *testing.F) {
	b, err := json.Marshal(container("web"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"id":1,"spec":{"mounts":[{}]}}`))
	f.Add([]byte(strings.Repeat("[", 20000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "r")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		asJSON(t, path, b, readContainer)
		asJSON(t, path, b, readImage)
	})
}

// asJSON holds read against encoding/json: both refuse, or both read the same.
func asJSON[T any](t *testing.T, path string, b []byte, decode func(*jsonscan.Scanner, *T)) {
	t.Helper()
	got, want := new(T), new(T)
	err, wantErr := read(path, got, decode), json.Unmarshal(b, want)
	if err != nil && !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
	if (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%.300q: %+v, %v; encoding/json: %+v, %v", b, got, err, want, wantErr)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("docker.io/library/debian:12")
	f.Fuzz(func(t *testing.T, key string) {
		got := escape(key)
		if len(got) > maxFileName || bytes.ContainsAny([]byte(got), "/\x00") || strings.HasPrefix(got, ".") {
			t.Errorf("%q becomes %q", key, got)
		}
	})
}

func BenchmarkCreateRemove(b *testing.B) {
	s := Open(b.TempDir())
	for b.Loop() {
		c := create(b, s, container("web"))
		if err := s.RemoveContainer(c.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkImage(b *testing.B) {
	s := Open(b.TempDir())
	img := image("docker.io/library/debian:12", "1")
	if err := s.PutImage(img); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Image(img.Name); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHalfARecord: after a power cut a container that went with its process is dead, and one that was to last is damaged.
func TestHalfARecord(t *testing.T) {
	for sync, want := range map[atomicfile.Sync]error{atomicfile.Volatile: nil, atomicfile.Durable: api.Corrupt} {
		s := Open(filepath.Join(t.TempDir(), "root"))
		c := container("half")
		if err := s.CreateContainer(c, sync); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Container("half"); err != nil || got.ID != c.ID || got.State.Status == api.StatusDead || s.Passing(c.ID) != (sync == atomicfile.Volatile) {
			t.Fatalf("whole: %+v, %v", got, err)
		}
		if err := os.Truncate(filepath.Join(s.Dir(c.ID), recordFile), 0); err != nil {
			t.Fatal(err)
		}
		got, err := s.Container(c.ID)
		_, ok, rerr := s.Record(c.ID)
		if !errors.Is(err, want) || !errors.Is(rerr, want) || ok || want == nil && got.State.Status != api.StatusDead {
			t.Errorf("sync %t: %+v, %v; record %t, %v", sync, got.State, err, ok, rerr)
		}
		if err := s.RemoveContainer(c.ID); err != nil {
			t.Error(err)
		}
		nothingLeft(t, s)
	}
}
