package namedir

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// folders makes a network's folder and that of a container on it.
func folders(t *testing.T) (dir, member string) {
	t.Helper()
	dir, member = filepath.Join(t.TempDir(), "net"), t.TempDir()
	for _, d := range []string{nameDir, leaseDir, holderDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(member, "Blue")); err != nil {
		t.Fatal(err)
	}
	return dir, member
}

func addresses(text ...string) (list []netip.Addr) {
	for _, s := range text {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

func TestFind(t *testing.T) {
	dir, member := folders(t)
	one, two := addresses("10.0.0.2", "fd00::2"), addresses("10.0.0.3")
	for name, addrs := range map[string][]netip.Addr{"Web": one, "shared": one, "a.b": one} {
		if err := Add(dir, name, "one", addrs); err != nil {
			t.Fatal(err)
		}
	}
	if err := Add(dir, "shared", "two", two); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"web": 2, "WEB": 2, "web.blue": 2, "WEB.Blue": 2, "shared": 3, "a.b": 2, "a.b.blue": 2,
		"nobody": -1, "web.red": -1, "": -1, ".": -1, "..": -1, "../lease": -1, "../../x": -1, "web/one": -1, "a..b": -1, ".web": -1, "web.": -1,
		"web\x00": -1, strings.Repeat("x", 64): -1, strings.Repeat("x.", 130): -1, "blue": -1,
	} {
		got, there := new(Finder).Find(member, []byte(name))
		if there != (want >= 0) || len(got) != max(want, 0) {
			t.Errorf("%q: %v %t, want %d", name, got, there, want)
		}
	}
	first := map[netip.Addr]bool{}
	for range 100 {
		got, _ := new(Finder).Find(member, []byte("shared"))
		first[got[0]] = true
	}
	if len(first) != 2 {
		t.Errorf("always %v first", first)
	}
	// With another address, and gone.
	if err := Add(dir, "shared", "two", addresses("10.0.0.9")); err != nil {
		t.Fatal(err)
	}
	if got, _ := new(Finder).Find(member, []byte("shared")); !slices.Contains(got, netip.MustParseAddr("10.0.0.9")) || len(got) != 3 {
		t.Error(got)
	}
	for range 2 {
		if err := Remove(dir, "shared", "one"); err != nil {
			t.Fatal(err)
		}
	}
	if got, there := new(Finder).Find(member, []byte("shared")); !there || len(got) != 1 {
		t.Error(got, there)
	}
	if err := Remove(dir, "shared", "two"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, nameDir, "shared")); !os.IsNotExist(err) {
		t.Errorf("the folder of a name that nobody has: %v", err)
	}
}

func TestWhose(t *testing.T) {
	dir, member := folders(t)
	addrs := addresses("10.0.0.2", "fd00::2")
	if err := os.Symlink(Hold(addrs, []string{"web", "alias"}), filepath.Join(dir, holderDir, "one")); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if err := os.Symlink("one", filepath.Join(dir, leaseDir, a.String())); err != nil {
			t.Fatal(err)
		}
		if name, ok := Whose(member, a); !ok || name != "web.Blue" {
			t.Errorf("%s: %s %t", a, name, ok)
		}
	}
	if name, ok := Whose(member, netip.MustParseAddr("10.0.0.3")); ok {
		t.Error(name)
	}
	if got, names := Held(Hold(addrs, []string{"web", "alias"})); !slices.Equal(got, addrs) || !slices.Equal(names, []string{"web", "alias"}) {
		t.Error(got, names)
	}
}

// TestNamesAreShared: containers that come and go under one name do not take it from one another.
func TestNamesAreShared(t *testing.T) {
	dir, member := folders(t)
	if err := Add(dir, "web", "stays", addresses("10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			for range 500 {
				for _, name := range []string{"web", "other"} {
					if err := Add(dir, name, id, addresses("10.0.0.2")); err != nil {
						t.Error(err)
					}
				}
				if _, there := new(Finder).Find(member, []byte("other")); !there {
					t.Error("a name that was added is not there")
				}
				if err := Remove(dir, "other", id); err != nil {
					t.Error(err)
				}
				if _, there := new(Finder).Find(member, []byte("web")); !there {
					t.Error("a name that somebody has is not there")
				}
			}
		})
	}
	all.Wait()
}

func TestForward(t *testing.T) {
	member := t.TempDir()
	if !ReadForward(member).None {
		t.Error("without a file somebody is asked")
	}
	for _, f := range []Forward{{}, {None: true}, {Servers: []string{"192.0.2.1", "2001:db8::1"}}} {
		if err := f.Write(member); err != nil {
			t.Fatal(err)
		}
		if got := ReadForward(member); got.None != f.None || !slices.Equal(got.Servers, f.Servers) {
			t.Errorf("%+v became %+v", f, got)
		}
	}
}

// TestFindAllocatesNothing: thousands of look-ups a second leave a keeper's heap alone.
func TestFindAllocatesNothing(t *testing.T) {
	member, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(dir, filepath.Join(member, "blue")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, nameDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := Add(dir, "web", id, []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}); err != nil {
			t.Fatal(err)
		}
	}
	f := new(Finder)
	for _, name := range []string{"web", "WEB.blue", "nobody"} {
		buf := make([]byte, len(name))
		find := func() {
			copy(buf, name)
			if _, there := f.Find(member, buf); there == (name == "nobody") {
				t.Errorf("%s: %t", name, there)
			}
		}
		find()
		if n := testing.AllocsPerRun(100, find); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("web.blue")
	f.Add("../x")
	dir, member := f.TempDir(), f.TempDir()
	if err := os.Symlink(dir, filepath.Join(member, "blue")); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if got, there := new(Finder).Find(member, []byte(name)); there {
			t.Errorf("%q: %v", name, got)
		}
	})
}
