package resctrl

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// fake is a resctrl of plain files, whose mkdir fills new folders as the kernel does.
func fake(t *testing.T) *Tree {
	t.Helper()
	dir := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{
		"schemata": "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n", "tasks": "", "info/L3/cbm_mask": "fffff\n", "info/L3/min_cbm_bits": "1\n", "info/L3/num_closids": "16\n",
		"info/MB/bandwidth_gran": "10\n", "info/MB/delay_linear": "1\n", "info/MB/min_bandwidth": "10\n", "info/MB/num_closids": "8\n", "info/last_cmd_status": "ok\n",
		"gold/schemata": "    MB:0= 20;1= 70\n    L3:0=007f0;1=0001f\n", "gold/tasks": "",
	} {
		put(dir+"/"+file, text)
	}
	for _, group := range []string{dir, dir + "/gold"} {
		if err := os.MkdirAll(group+"/mon_groups", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Tree{dir: dir, mkdir: func(d string) error {
		if err := mkdir(d); err != nil {
			return err
		}
		put(d+"/tasks", "")
		if filepath.Base(filepath.Dir(d)) == "mon_groups" {
			put(d+"/mon_data/mon_L3_01/llc_occupancy", "7\n")
			put(d+"/mon_data/mon_L3_00/llc_occupancy", "5\n")
			put(d+"/mon_data/mon_L3_00/mbm_total_bytes", "9\n")
			put(d+"/mon_data/mon_L3_00/mbm_local_bytes", "Unavailable\n")
			return nil
		}
		put(d+"/schemata", "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n")
		return os.Mkdir(d+"/mon_groups", 0o755)
	}}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestOwnClass(t *testing.T) {
	tree := fake(t)
	g, err := tree.Create(&specs.LinuxIntelRdt{L3CacheSchema: "L3:0=7f0;1=1f", MemBwSchema: "MB:0=20;1=70", Schemata: []string{"L2:0=f", "MB:0=30;1=70"}, EnableMonitoring: true}, "c1")
	if err != nil || g.Dir != tree.dir+"/c1" || !g.Own || g.Monitor != tree.dir+"/c1/mon_groups/c1" {
		t.Fatalf("%+v, %v", g, err)
	}
	if got := read(t, g.Dir+"/schemata"); !strings.HasPrefix(got, "L3:0=7f0;1=1f\nMB:0=20;1=70\nL2:0=f\nMB:0=30;1=70\n") {
		t.Errorf("schemata %q", got)
	}
	if err := g.Join(42); err != nil || read(t, g.Dir+"/tasks") != "42" || read(t, g.Monitor+"/tasks") != "42" {
		t.Error(err)
	}
	s, err := tree.Stats(g)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	want := `{"l3_cache_info":{"cbm_mask":"fffff","min_cbm_bits":1,"num_closids":16},"l3_cache_schema_root":"L3:0=fffff;1=fffff","l3_cache_schema":"L3:0=7f0;1=1f",` +
		`"mem_bw_info":{"bandwidth_gran":10,"delay_linear":1,"min_bandwidth":10,"num_closids":8},"mem_bw_schema_root":"MB:0=100;1=100","mem_bw_schema":"MB:0=20;1=70",` +
		`"mbm_stats":[{"mbm_total_bytes":9,"mbm_local_bytes":0}],"cmt_stats":[{"llc_occupancy":5},{"llc_occupancy":7}]}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v\nwant %s", b, err, want)
	}
	if err := tree.Set(g, &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=1"}); err != nil || !strings.HasPrefix(read(t, g.Dir+"/schemata"), "L3:0=1\n") {
		t.Errorf("update: %v", err)
	}
	// The kernel's files go with their folder.
	os.RemoveAll(g.Monitor + "/mon_data")
	for _, f := range []string{g.Monitor + "/tasks", g.Dir + "/tasks", g.Dir + "/schemata"} {
		os.Remove(f)
	}
	unix.Rmdir(g.Monitor)
	unix.Rmdir(g.Dir + "/mon_groups")
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the class is left: %v", err)
	}
	if err := g.Remove(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestNamedClass(t *testing.T) {
	tree := fake(t)
	for _, c := range []struct {
		name string
		r    specs.LinuxIntelRdt
		dir  string // below the tree, or the kind of error after !
	}{
		{"exists", specs.LinuxIntelRdt{ClosID: "gold"}, "/gold"},
		{"exists as wanted", specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:1=1F;0=7f0", MemBwSchema: "MB:0=20"}, "/gold"},
		{"the last line counts", specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:0=30;1=70", Schemata: []string{"MB:0=20"}}, "/gold"},
		{"exists, other cache", specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7f0;1=3f"}, "!conflict"},
		{"exists, other domain", specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:2=1f"}, "!conflict"},
		{"exists, other resource", specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L2:0=f"}}, "!conflict"},
		{"missing", specs.LinuxIntelRdt{ClosID: "silver"}, "!not found"},
		{"made", specs.LinuxIntelRdt{ClosID: "silver", MemBwSchema: "MB:0=20;1=70"}, "/silver"},
		{"root", specs.LinuxIntelRdt{ClosID: "/"}, ""},
		{"no name", specs.LinuxIntelRdt{}, "/id"},
	} {
		g, err := tree.Create(&c.r, "id")
		if kind, bad := strings.CutPrefix(c.dir, "!"); bad {
			if string(api.KindOf(err)) != kind || !strings.Contains(err.Error(), "linux.intelRdt") {
				t.Errorf("%s: %+v, %v", c.name, g, err)
			}
			continue
		}
		if err != nil || g.Dir != tree.dir+c.dir || g.Own != (c.name == "no name") {
			t.Errorf("%s: %+v, %v", c.name, g, err)
			continue
		}
		if !g.Own { // what is not the container's own stays
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(g.Dir + "/tasks"); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

// What fails leaves no class behind.
func TestFailures(t *testing.T) {
	tree := fake(t)
	real := tree.mkdir
	tree.mkdir = func(d string) error {
		if filepath.Base(filepath.Dir(d)) == "mon_groups" {
			os.RemoveAll(filepath.Dir(d)) // a class without monitoring; and, for rmdir, without plain files
			os.Remove(filepath.Dir(filepath.Dir(d)) + "/tasks")
			os.Remove(filepath.Dir(filepath.Dir(d)) + "/schemata")
			return &os.PathError{Op: "mkdir", Path: d, Err: unix.ENOENT}
		}
		return real(d)
	}
	if _, err := tree.Create(&specs.LinuxIntelRdt{EnableMonitoring: true}, "c1"); !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "enableMonitoring") {
		t.Errorf("no monitoring: %v", err)
	}
	if _, err := os.Stat(tree.dir + "/c1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	tree.mkdir = func(d string) error { return &os.PathError{Op: "mkdir", Path: d, Err: unix.ENOSPC} }
	if _, err := tree.Create(&specs.LinuxIntelRdt{}, "c1"); !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "16") {
		t.Errorf("no more classes: %v", err)
	}
	if err := os.WriteFile(tree.dir+"/info/last_cmd_status", []byte("Value 0 is out of range\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.Set(&Group{Dir: tree.dir + "/gone"}, &specs.LinuxIntelRdt{MemBwSchema: "MB:0=0"}); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "out of range") {
		t.Errorf("refused: %v", err)
	}
	if _, err := Find(); err != nil && !errors.Is(err, api.Unsupported) {
		t.Errorf("without resctrl: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for want, r := range map[string]*specs.LinuxIntelRdt{
		"linux.intelRdt.closID: \"a/b\"":     {ClosID: "a/b"},
		"linux.intelRdt.closID: \"..\"":      {ClosID: ".."},
		"linux.intelRdt.closID: \"info\"":    {ClosID: "info"},
		"linux.intelRdt.l3CacheSchema":       {L3CacheSchema: "L2:0=f"},
		"linux.intelRdt.l3CacheSchema: \"L3": {L3CacheSchema: "L3:0=f\nMB:0=5"},
		"linux.intelRdt.memBwSchema":         {MemBwSchema: "MB 0=5"},
		"linux.intelRdt.memBwSchema: \"MB:":  {MemBwSchema: "MB:"},
		"linux.intelRdt.schemata[1]":         {Schemata: []string{"L2:0=f", "L2"}},
	} {
		if err := Validate(r); !errors.Is(err, api.InvalidArgument) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, r := range []*specs.LinuxIntelRdt{nil, {}, {ClosID: "/", L3CacheSchema: "L3CODE:0=f", MemBwSchema: "MB:0=5;", Schemata: []string{"L2:0=f;1=f"}}} {
		if err := Validate(r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := fake(t).Create(&specs.LinuxIntelRdt{}, "../x"); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("an ID that climbs: %v", err)
	}
}

func TestMountPoint(t *testing.T) {
	const info = "22 27 0:21 / /proc rw - proc proc rw\n40 22 0:30 / /sys/fs/res\\040ctrl rw,relatime shared:9 - resctrl resctrl rw,mba_MBps\n"
	if dir, ok := mountPoint([]byte(info)); dir != "/sys/fs/res ctrl" || !ok {
		t.Errorf("%q, %v", dir, ok)
	}
	if dir, ok := mountPoint([]byte("1 2 0:3 / /resctrl rw - tmpfs resctrl rw\n - resctrl x\n")); ok {
		t.Errorf("%q", dir)
	}
}

func FuzzSchema(f *testing.F) {
	f.Add("    L3:0=007f0;1=0001f\n", "L3:1=1f")
	f.Fuzz(func(t *testing.T, file, line string) {
		mountPoint([]byte(file))
		if !schema(line) {
			return
		}
		if differs([]byte(line+"\n"), []string{line}) != "" {
			t.Errorf("%q differs from itself", line)
		}
		differs([]byte(file), []string{line})
	})
}
