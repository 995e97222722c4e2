package cgroup

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

func TestCanEntrust(t *testing.T) {
	if err := (&Layout{v2: true, mounts: []mount{{dir: "/x", v2: true}}}).CanEntrust(); err != nil {
		t.Error(err)
	}
	err := (&Layout{v1: true, mounts: []mount{{dir: "/x", controllers: []string{"cpu"}}}}).CanEntrust()
	if !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "mount -t cgroup2") {
		t.Errorf("version 1 alone: %v", err)
	}
}

// TestEntrust: the group that a container rules is below its limits, and its processes are counted, found and killed wherever they go in it.
func TestEntrust(t *testing.T) {
	l, err := Detect()
	if err != nil {
		t.Skip("control groups cannot be made here: ", err)
	}
	if err := l.CanEntrust(); err != nil {
		t.Skip("control groups cannot be made here: ", err)
	}
	r, groups := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(50))}}, maxGroups
	if l.V2() { // what was asked for stays
		groups = "100"
		r.Unified = map[string]string{"cgroup.max.descendants": groups}
	}
	g := liveGroup(t, r)
	p, err := g.Entrust(nobody)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"/cgroup.max.depth": "14", "/cgroup.max.descendants": groups} {
		if have, err := readFile(g.v2() + file); err != nil || strings.TrimSpace(string(have)) != want {
			t.Errorf("%s: %q, %v; want %s", file, have, err, want)
		}
	}
	for _, name := range []string{"", "/cgroup.procs", "/cgroup.subtree_control", initName, initName + "/cgroup.procs"} {
		var st unix.Stat_t
		if err := unix.Stat(p.v2()+name, &st); err != nil || st.Uid != nobody {
			t.Errorf("payload%s belongs to %d, not %d: %v", name, st.Uid, nobody, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(g.v2()+"/cgroup.procs", &st); err != nil || st.Uid == nobody {
		t.Errorf("the group with the limits was given away: %v", err)
	}
	if want, have := v2Controllers(g.v2()), v2Controllers(p.v2()); len(have) < min(1, len(want)) {
		t.Errorf("controllers of the payload %v, of the group %v", have, want)
	}
	cmd := join(t, p, "sleep 100")
	start(t, cmd)
	f, err := p.InitFile()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	deep := p.v2() + initName
	for range 20 {
		deep += "/" + strings.Repeat("d", 250)
		if err = os.Mkdir(deep, 0o755); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("groups can be made too deep to be removed")
	}
	if err := writeFile(p.v2()+initName+"/cgroup.procs", strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	n, err := g.Nested(cmd.Process.Pid)
	if err != nil || n.v2() != p.v2()+initName {
		t.Errorf("it is found in %v, %v", n, err)
	}
	if pids, err := g.Pids(); err != nil || len(pids) != 1 {
		t.Errorf("processes: %v, %v", pids, err)
	}
	if err := g.Kill(9); err != nil {
		t.Error(err)
	}
	cmd.Wait() //nolint:errcheck // killed
	if err := g.Remove(); err != nil || g.exists() {
		t.Errorf("remove: %v", err)
	}
}
