package systemd

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
)

func ptr[T any](v T) *T { return &v }

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		path     string
		rootless bool
		want     Unit
		dir      string
	}{
		{"", false, Unit{"system.slice", "brig-id.scope"}, "/system.slice"},
		{"", true, Unit{"user.slice", "brig-id.scope"}, "/user.slice"},
		{"machine.slice:libpod:abc", false, Unit{"machine.slice", "libpod-abc.scope"}, "/machine.slice"},
		{"kubepods-burstable-pod1.slice:cri:x", false, Unit{"kubepods-burstable-pod1.slice", "cri-x.scope"},
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"},
		{":docker:x", false, Unit{"system.slice", "docker-x.scope"}, "/system.slice"},
		{"-.slice::x", false, Unit{"-.slice", "x.scope"}, ""},
	} {
		u, err := ParsePath(c.path, "id", c.rootless)
		if err != nil || u != c.want {
			t.Errorf("%q: %+v, %v", c.path, u, err)
		}
		if dir, err := expandSlice(u.Slice); dir != c.dir || err != nil {
			t.Errorf("%q: %q, %v", u.Slice, dir, err)
		}
	}
	for _, bad := range []string{"/a/b", "a:b", "a:b:c:d", "a.slice:p:", "a.slice:p:x.slice", "a.slice:p:x/../y", "a.slice:p:x y", "a:p:x", "a/b.slice:p:x",
		"a--b.slice:p:x", "-a.slice:p:x", ".slice:p:x", "a.slice:p:" + strings.Repeat("x", 256)} {
		if u, err := ParsePath(bad, "id", false); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "linux.cgroupsPath") {
			t.Errorf("%q: %+v, %v", bad, u, err)
		}
	}
}

func TestProperties(t *testing.T) {
	memory := func(limit, swap int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap, Reservation: ptr(int64(-1))}}
	}
	cpu := func(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }
	all := cgroup.DefaultDevices()
	for _, c := range []struct {
		name    string
		r       *specs.LinuxResources
		v2      bool
		version int
		want    map[string]any
	}{
		{"nothing", &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, Pids: &specs.LinuxPids{}}, true, 252, nil},
		{"memory", memory(100, 150), true, 252, map[string]any{"MemoryMax": uint64(100), "MemorySwapMax": uint64(50), "MemoryLow": infinity}},
		{"no swap", memory(100, 100), true, 252, map[string]any{"MemoryMax": uint64(100), "MemorySwapMax": uint64(0), "MemoryLow": infinity}},
		{"unlimited", memory(-1, 0), true, 252, map[string]any{"MemoryMax": infinity, "MemorySwapMax": infinity, "MemoryLow": infinity}},
		{"memory on version 1", memory(100, 150), false, 252, map[string]any{"MemoryLimit": uint64(100)}},
		{"shares", cpu(specs.LinuxCPU{Shares: ptr(uint64(1024)), Cpus: "0-1,9", Mems: "0"}), true, 244,
			map[string]any{"CPUWeight": uint64(100), "AllowedCPUs": []byte{3, 2}, "AllowedMemoryNodes": []byte{1}}},
		{"too old for cpusets", cpu(specs.LinuxCPU{Cpus: "0"}), true, 243, nil},
		{"shares on version 1", cpu(specs.LinuxCPU{Shares: ptr(uint64(77))}), false, 252, map[string]any{"CPUShares": uint64(77)}},
		{"idle", cpu(specs.LinuxCPU{Shares: ptr(uint64(77)), Idle: ptr(int64(1))}), true, 252, map[string]any{"CPUWeight": uint64(0)}},
		{"too old for idle", cpu(specs.LinuxCPU{Shares: ptr(uint64(2)), Idle: ptr(int64(1))}), true, 251, map[string]any{"CPUWeight": uint64(1)}},
		{"quota", cpu(specs.LinuxCPU{Quota: ptr(int64(33333)), Period: ptr(uint64(100000))}), true, 242,
			map[string]any{"CPUQuotaPeriodUSec": uint64(100000), "CPUQuotaPerSecUSec": uint64(340000)}},
		{"quota alone", cpu(specs.LinuxCPU{Quota: ptr(int64(50000))}), true, 241, map[string]any{"CPUQuotaPerSecUSec": uint64(500000)}},
		{"no quota", cpu(specs.LinuxCPU{Quota: ptr(int64(-1))}), true, 252, map[string]any{"CPUQuotaPerSecUSec": infinity}},
		{"a quota beyond all", cpu(specs.LinuxCPU{Quota: ptr(int64(math.MaxInt64))}), true, 252, map[string]any{"CPUQuotaPerSecUSec": infinity}},
		{"pids", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, true, 252, map[string]any{"TasksMax": uint64(1)}},
		{"no pids limit", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, true, 252, map[string]any{"TasksMax": infinity}},
		{"weight", &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(1000))}}, true, 252, map[string]any{"IOWeight": uint64(10000)}},
		{"weight on version 1", &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500))}}, false, 252, map[string]any{"BlockIOWeight": uint64(500)}},
		{"devices", &specs.LinuxResources{Devices: all}, true, 252, map[string]any{"DevicePolicy": "strict", "DeviceAllow": []Pair{
			{"char-*", "m"}, {"block-*", "m"}, {"/dev/char/1:3", "rwm"}, {"/dev/char/1:5", "rwm"}, {"/dev/char/1:7", "rwm"}, {"/dev/char/1:8", "rwm"},
			{"/dev/char/1:9", "rwm"}, {"/dev/char/5:0", "rwm"}, {"/dev/char/5:2", "rwm"}, {"char-136", "rwm"}}}},
		{"all devices", &specs.LinuxResources{Devices: append(slices.Clone(all), specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})}, true, 252,
			map[string]any{"DevicePolicy": "auto", "DeviceAllow": []Pair{}}},
		{"unified", &specs.LinuxResources{Unified: map[string]string{"memory.high": "max", "memory.min": "5", "pids.max": " 9\n", "cpu.max": "max", "cpu.weight": "7",
			"cpuset.cpus": "1", "io.max": "8:0 rbps=1", "cpu.idle": "0"}}, true, 252,
			map[string]any{"MemoryHigh": infinity, "MemoryMin": uint64(5), "TasksMax": uint64(9), "CPUQuotaPeriodUSec": uint64(100000), "CPUQuotaPerSecUSec": infinity,
				"CPUWeight": uint64(7), "AllowedCPUs": []byte{2}}},
	} {
		list, err := Properties(c.r, c.v2, c.version)
		got := map[string]any{}
		for _, p := range list {
			if signatureOf(p.Value) == "" {
				t.Errorf("%s: %s has a value of type %T", c.name, p.Name, p.Value)
			}
			got[p.Name] = p.Value
		}
		if err != nil || len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	for _, bad := range []map[string]string{{"memory.high": "much"}, {"cpu.max": "1 2 3"}, {"cpu.max": "x"}, {"cpu.max": "1 0"}, {"cpuset.mems": "z"}} {
		if _, err := Properties(&specs.LinuxResources{Unified: bad}, true, 252); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "linux.resources.unified[") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if list, err := Properties(nil, true, 252); list != nil || err != nil {
		t.Error(list, err)
	}
}

func TestAnnotations(t *testing.T) {
	list, err := annotated(map[string]string{
		"org.systemd.property.TimeoutStopUSec": "uint64 123456789", "org.systemd.property.CollectMode": "'inactive-or-failed'",
		"org.systemd.property.RuntimeMaxSec": "2.5", "org.systemd.property.After": "['a.service', \"b.service\"]", "other": "x",
		"org.systemd.property.Delegate": "true", "org.systemd.property.AllowedCPUs": "@ay [1, 0x2]", "org.systemd.property.Sec": "1",
	})
	want := []Property{{"After", []string{"a.service", "b.service"}}, {"AllowedCPUs", []byte{1, 2}}, {"CollectMode", "inactive-or-failed"}, {"Delegate", true},
		{"RuntimeMaxUSec", uint64(2500000)}, {"Sec", int32(1)}, {"TimeoutStopUSec", uint64(123456789)}}
	if err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%v, %v", list, err)
	}
	for _, c := range [][2]string{{"x1x", "1"}, {"ab", "1"}, {"Name", ""}, {"Name", "word"}, {"Name", "'open"}, {"Name", "1 2"}, {"Name", "[]"}, {"Name", "[1, 'a']"}, {"Name", "(1, 2)"},
		{"Name", "{'a': 1}"}, {"Name", "byte 256"}, {"Name", "99999999999"}, {"Name", "uint32 -1"}, {"TimeoutSec", "'x'"}, {"TimeoutSec", "-1"}, {"TimeoutSec", "1e300"}, {"Name", "@v 1"},
		{"Name", "['a' 'b']"}, {"Name", "[['a']]"}, {"Name", "@u 'x'"}, {"Name", "uint16 true"}, {"Name", "'a\x00b'"}} {
		if list, err := annotated(map[string]string{prefix + c[0]: c[1]}); !errors.Is(err, api.InvalidArgument) || !strings.HasPrefix(err.Error(), "annotation "+prefix+c[0]) {
			t.Errorf("%s=%q: %v, %v", c[0], c[1], list, err)
		}
	}
}

func FuzzParseVariant(f *testing.F) {
	for _, s := range []string{"uint64 5", "['a', 'b']", "@au [1, 2]", "'x\\n'", "1.5e3", "@as []", "true"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseVariant(text)
		if err != nil {
			return
		}
		sig := signatureOf(v)
		if sig == "" {
			t.Fatalf("%q: %T has no type on the bus", text, v)
		}
		e := &encoder{}
		e.value(v)
		d := &decoder{b: e.b}
		if _, rest := d.value(sig, 0); d.bad || rest != "" || d.at != len(d.b) {
			t.Errorf("%q: %v does not come back", text, v)
		}
	})
}

func TestMessage(t *testing.T) {
	e := &encoder{}
	e.properties([]Property{{"A", byte(1)}, {"B", true}, {"C", int16(-2)}, {"D", uint16(3)}, {"E", int32(-4)}, {"F", uint32(5)}, {"G", int64(-6)}, {"H", uint64(7)}, {"I", 1.5}, {"J", "x"},
		{"K", Path("/p")}, {"L", []byte{1, 2}}, {"M", []string{"a", ""}}, {"N", []uint32{9}}, {"O", []uint64{10}}, {"P", []Pair{{"a", "b"}, {"c", "d"}}}, {"Q", []Pair{}}})
	m := &message{kind: typeError, flags: 3, serial: 9, replySerial: 4, path: "/a", iface: "b.c", member: "D", destination: "e.f", errorName: "g.h", signature: "a(sv)", body: e.b}
	got, err := decode(m.encode())
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("%+v, %v", got, err)
	}
	v, err := got.values()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"A": uint64(1), "B": true, "C": int64(-2), "D": uint64(3), "E": int64(-4), "F": uint64(5), "G": int64(-6), "H": uint64(7), "I": 1.5, "J": "x", "K": "/p",
		"L": []any{uint64(1), uint64(2)}, "M": []any{"a", ""}, "N": []any{uint64(9)}, "O": []any{uint64(10)}, "P": []any{[]any{"a", "b"}, []any{"c", "d"}}, "Q": []any(nil)}
	if all := named2(v[0]); !reflect.DeepEqual(all, want) {
		t.Errorf("%v", all)
	}
	b := m.encode()
	for i := range b { // cut anywhere, it is an error
		if _, err := decode(b[:i]); !errors.Is(err, api.Corrupt) {
			t.Errorf("%d of %d bytes: %v", i, len(b), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	e := &encoder{}
	e.properties([]Property{{"A", []Pair{{"x", "y"}}}, {"B", []byte{1}}})
	m := &message{kind: typeSignal, serial: 1, path: managerPath, iface: manager, member: "JobRemoved", signature: "a(sv)", body: e.b}
	f.Add(m.encode())
	f.Add([]byte("B\x02\x01\x01\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x08\x08\x01g\x00\x01u\x00\x00\x00\x00\x00\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		m.values()
		m.encode()
		c := &Conn{rest: append(b, b...)}
		if again, err := c.receive(time.Now()); err != nil || again.serial != m.serial || len(c.rest) != len(b) {
			t.Errorf("from a stream: %+v, %v", again, err)
		}
	})
}

func TestAddresses(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "tcp:host=x;unix:path=/a%20b,guid=1;unix:abstract=/c;unix:path=%zz")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/5")
	if got := addresses(false); !reflect.DeepEqual(got, []address{{"/a b", false}, {"@/c", false}, {"/run/dbus/system_bus_socket", false}, {"/run/systemd/private", true}}) {
		t.Errorf("%v", got)
	}
	if got := addresses(true); !reflect.DeepEqual(got, []address{{"/run/user/5/bus", false}, {"/run/user/5/systemd/private", true}}) {
		t.Errorf("%v", got)
	}
}

// scope is a fake that puts the keeper into a group of this machine, as systemd would.
func (f *fake) realGroups(t *testing.T) *cgroup.Layout {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	l, err := cgroup.Detect()
	if err != nil {
		t.Skip(err)
	}
	f.started = func(unit string, pids []any) error {
		g, err := l.Create("/brigtest.slice/"+unit, nil)
		if err != nil || len(pids) != 1 {
			return fmt.Errorf("%v, PIDs %v", err, pids)
		}
		pid := strconv.FormatUint(pids[0].(uint64), 10)
		for _, h := range g.Hierarchies() {
			if err := os.WriteFile(h.Dir+"/cgroup.procs", []byte(pid), 0); err != nil {
				return err
			}
		}
		return nil
	}
	t.Cleanup(func() {
		if g, err := l.Load("/brigtest.slice"); err == nil {
			g.Kill(unix.SIGKILL)
			g.Remove()
		}
	})
	return l
}

// The whole life of a scope, against a fake that makes the groups.
func TestScope(t *testing.T) {
	for _, private := range []bool{false, true} {
		f := newFake(t)
		f.private, f.early = private, private
		l := f.realGroups(t)
		req := &Request{CgroupsPath: "brigtest.slice:brig:" + strconv.Itoa(os.Getpid()), ID: "id", Resources: &specs.LinuxResources{Devices: cgroup.DefaultDevices()},
			Annotations: map[string]string{"org.systemd.property.TimeoutStopSec": "1"}}
		unit, err := ParsePath(req.CgroupsPath, req.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		own, err := annotated(req.Annotations)
		if err != nil {
			t.Fatal(err)
		}
		k, err := newKeeper()
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		c := f.dial()
		s, err := c.create(req, unit, own, l, k)
		if errors.Is(err, unix.EROFS) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.Group.Pids(); err != nil || !slices.Equal(p, []int{k.pid}) {
			t.Errorf("in the scope: %v, %v; the keeper is %d", p, err, k.pid)
		}
		props := f.unit(unit.Name)
		for name, want := range map[string]any{"Slice": "brigtest.slice", "Delegate": true, "DefaultDependencies": false, "TimeoutStopUSec": uint64(1000000), "DevicePolicy": "strict",
			"Description": "OCI container id"} {
			if props[name] != want {
				t.Errorf("%s = %v, want %v", name, props[name], want)
			}
		}
		if _, err := c.create(req, unit, own, l, k); !errors.Is(err, api.AlreadyExists) || !strings.Contains(err.Error(), unit.Name) {
			t.Errorf("a second of the same name: %v", err)
		}
		if err := c.update(unit.Name, l.V2(), s.Group, &specs.LinuxResources{Devices: append(cgroup.DefaultDevices(), specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})}); err != nil {
			t.Error(err)
		}
		if got := f.unit(unit.Name)["DevicePolicy"]; got != "auto" {
			t.Errorf("after the update: %v", got)
		}
		s.Release()
		s.Release()
		if err := c.Stop(unit.Name); err != nil {
			t.Error(err)
		}
		if err := c.Stop(unit.Name); err != nil {
			t.Errorf("a unit that is gone: %v", err)
		}
		if err := s.Group.Remove(); err != nil {
			t.Error(err)
		}
	}
}

func TestStart(t *testing.T) {
	f := newFake(t)
	f.units["failed.scope"] = map[string]any{"failed": true}
	c := f.dial()
	if err := c.start(Unit{"a.slice", "failed.scope"}, nil); err != nil {
		t.Errorf("what a failed unit left: %v (%v)", err, f.log())
	}
	f.mu.Lock()
	f.result = "timeout"
	f.mu.Unlock()
	if err := c.start(Unit{"a.slice", "late.scope"}, nil); !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), `"timeout"`) {
		t.Errorf("a job that fails: %v", err)
	}
	if v, err := c.Version(); v != 252 || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
	c.rootless = true
	if path, err := c.path(Unit{"user.slice", "x.scope"}); path != "/user.slice/user-1000.slice/user@1000.service/user.slice/x.scope" || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	f2 := newFake(t)
	f2.refuse = "REJECTED EXTERNAL"
	if _, err := dial(f2.path, false, time.Now().Add(greetLimit)); !errors.Is(err, api.Unauthorized) {
		t.Errorf("refused: %v", err)
	}
	if _, err := dial(f2.path+"x", false, time.Now().Add(greetLimit)); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	if !Booted() {
		if _, err := Dial(false); !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "--systemd-cgroup") {
			t.Errorf("without systemd: %v", err)
		}
	}
}

// The keeper lives until it is closed, and until its maker dies.
// TestOwnScope: the first process starts the scope that others are taken into.
func TestOwnScope(t *testing.T) {
	f := newFake(t)
	c, u := f.dial(), Unit{"user.slice", "brig-key.scope"}
	if err := c.Attach(u.Name, "/keepers"); !errors.Is(err, api.Unavailable) {
		t.Errorf("into none: %v", err)
	}
	if err := c.StartOwnScope(u, "what it is"); err != nil {
		t.Fatal(err)
	}
	got := f.unit(u.Name)
	for name, want := range map[string]any{"Delegate": true, "Slice": "user.slice", "PIDs": []any{uint64(0)}, "TasksMax": infinity, "Description": "what it is"} {
		if !reflect.DeepEqual(got[name], want) {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if err := f.dial().StartOwnScope(u, ""); !errors.Is(err, api.AlreadyExists) {
		t.Errorf("twice: %v", err)
	}
	if err := c.Attach(u.Name, "/keepers"); err != nil || !reflect.DeepEqual(got["attached"], []any{"/keepers", []any{uint64(0)}}) {
		t.Errorf("%v, %v", got["attached"], err)
	}
}

// TestMuteBus: a socket at which nobody answers, whether it is listened at or its queue is full, is given up after two seconds, by its name.
func TestMuteBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+path)
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, what := range []string{"nobody accepts", "full"} {
		begun := time.Now()
		_, err := DialUser()
		if took := time.Since(begun); api.KindOf(err) != api.Unavailable || !strings.Contains(fmt.Sprint(err), path) || took > 4*time.Second {
			t.Errorf("%s: %v after %v", what, err, took)
		}
		other, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // fills the queue
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(other)
		_ = unix.Connect(other, &unix.SockaddrUnix{Name: path})
	}
}

func TestKeeper(t *testing.T) {
	k, err := newKeeper()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		fds, err := os.ReadDir("/proc/" + strconv.Itoa(k.pid) + "/fd")
		if err == nil && len(fds) == 1 {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the keeper has descriptors %v, %v; want its pipe", fds, err)
		}
	}
	if err := unix.Kill(k.pid, 0); err != nil {
		t.Error(err)
	}
	k.Close()
	k.Close()
	if err := unix.Kill(k.pid, 0); err != unix.ESRCH {
		t.Errorf("after Close: %v", err)
	}
}

// Against the real bus: what is written is D-Bus, not only what the fake thinks it is.
func TestDBusDaemon(t *testing.T) {
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed (package dbus-daemon)")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	socket := filepath.Join(dir, "socket")
	if err := os.WriteFile(config, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=`+socket+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow receive_type="method_return"/><allow receive_type="signal"/><allow receive_type="error"/><allow receive_type="method_call"/><allow own="*"/><allow user="*"/></policy></busconfig>`), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--nopidfile", "--nosyslog")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var server *Conn
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if server, err = dial(socket, false, time.Now().Add(greetLimit)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	v, err := server.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", "su", destination, uint32(4))
	if err != nil || v[0] != uint64(1) {
		t.Fatalf("RequestName: %v, %v", v, err)
	}
	f := &fake{t: t, version: "257", result: "done", units: map[string]map[string]any{}}
	served := make(chan bool)
	go func() { defer close(served); f.serve(server) }()
	defer func() { unix.Shutdown(server.fd, unix.SHUT_RDWR); <-served; server.Close() }()

	c, err := dial(socket, false, time.Now().Add(greetLimit))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Version(); n != 257 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	list := append(scopeProperties(Unit{"a.slice", "x.scope"}, "id", 5, nil, true), Property{"DeviceAllow", []Pair{{"char-*", "m"}}}, Property{"MemoryMax", uint64(7)})
	if err := c.start(Unit{"a.slice", "x.scope"}, list); err != nil {
		t.Fatal(err)
	}
	if got := f.unit("x.scope"); got["MemoryMax"] != uint64(7) || !reflect.DeepEqual(got["DeviceAllow"], []any{[]any{"char-*", "m"}}) || !reflect.DeepEqual(got["PIDs"], []any{uint64(5)}) {
		t.Errorf("%v", got)
	}
	if err := c.start(Unit{"a.slice", "x.scope"}, nil); !errors.Is(err, api.AlreadyExists) {
		t.Errorf("a second time: %v", err)
	}
	if err := c.Stop("x.scope"); err != nil {
		t.Error(err)
	}
}

// On a machine that systemd runs: the life of a scope, seen with systemctl.
func TestLiveScope(t *testing.T) {
	if !Booted() {
		t.Skip("systemd does not run this machine")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	name := strconv.Itoa(os.Getpid())
	s, err := Create(&Request{CgroupsPath: "brigtest.slice:brig:" + name, ID: name, Annotations: map[string]string{"org.systemd.property.CollectMode": "'inactive-or-failed'"},
		Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}, Pids: &specs.LinuxPids{Limit: ptr(int64(50))},
			CPU: &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}, Devices: cgroup.DefaultDevices()}})
	if err != nil {
		t.Fatal(err)
	}
	defer Stop(s.Unit, false)
	show := func(property string) string {
		out, err := exec.Command("systemctl", "show", "--value", "--property="+property, s.Unit).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	for property, want := range map[string]string{"ActiveState": "active", "TasksMax": "50", "Slice": "brigtest.slice", "Delegate": "yes", "ControlGroup": s.Group.Path(), "CPUQuotaPerSecUSec": "500ms",
		"CollectMode": "inactive-or-failed", "DevicePolicy": "strict"} {
		if got := show(property); got != want {
			t.Errorf("%s = %q, want %q", property, got, want)
		}
	}
	if p, err := s.Group.Pids(); err != nil || len(p) != 1 {
		t.Errorf("in the scope: %v, %v", p, err)
	}
	if err := Update(s.Unit, false, s.Group, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(60))}}); err != nil {
		t.Fatal(err)
	}
	if got := show("TasksMax"); got != "60" {
		t.Errorf("TasksMax = %q after the update", got)
	}
	if st, err := s.Group.Stats(); err != nil || st.Pids.Limit != 60 || st.Memory.Usage.Limit != 64<<20 {
		t.Errorf("stats: %+v, %v", st, err)
	}
	s.Release()
	if err := Stop(s.Unit, false); err != nil {
		t.Fatal(err)
	}
	if got := show("LoadState"); got != "not-found" {
		t.Errorf("after Stop: %q", got)
	}
	s.Group.Remove()
}
