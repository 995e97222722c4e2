package engine

import (
	"os"
	"strings"
	"testing"

	"brig/api"
)

// TestIsolationPage: the tables of the page are those that the code acts by.
func TestIsolationPage(t *testing.T) {
	page, err := os.ReadFile("../../doc/isolation.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := WithTables(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != want {
		t.Error("doc/isolation.md is stale: run `make commands`")
	}
	for _, name := range []string{"refused", "escapes"} {
		if !strings.Contains(want, tableBegin+name) {
			t.Errorf("the page has no table %s", name)
		}
	}
	for _, bad := range []string{"<!-- table: other -->\n<!-- end -->", "<!-- table: refused -->\n| a |"} {
		if _, err := WithTables(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestEveryLevelSays: each level has a name that the command line knows, and each refusal both its words.
func TestEveryLevelSays(t *testing.T) {
	for _, l := range (&Engine{}).levels() {
		for _, r := range l.refuses {
			if r.What == "" || r.Why == "" || r.asked == nil || r.asked(&api.ContainerSpec{Isolation: l.name}) {
				t.Errorf("level %s: refusal %q: %q", l.name, r.What, r.Why)
			}
		}
	}
}

// TestChrootRefuses: what level chroot refuses is refused by its own row.
func TestChrootRefuses(t *testing.T) {
	port := []api.PortSpec{{ContainerPort: 80}}
	for what, s := range map[string]api.ContainerSpec{
		"--network other": {Network: api.NetworkSpec{Mode: "none"}}, "-p and -P": {Network: api.NetworkSpec{Ports: port}}, "--pid, --ipc": {Namespaces: api.NamespaceSet{PID: "private"}},
		"--hostname": {Hostname: "h"}, "--sysctl": {Sysctls: map[string]string{"a": "b"}}, "--userns": {UserNS: api.UserNS{Mode: api.UserNSAuto}}, "--pod": {Pod: "p"},
		"--systemd": {Systemd: api.SystemdAlways}, "--security-opt nesting": {Security: []string{"nesting"}},
	} {
		n := 0
		for _, r := range chrootRefuses() {
			if r.asked(&s) {
				n++
				if !strings.HasPrefix(r.What, what) {
					t.Errorf("%s: %s", what, r.What)
				}
			}
		}
		if n != 1 {
			t.Errorf("%s: %d rows", what, n)
		}
	}
	host := api.ContainerSpec{Network: api.NetworkSpec{Mode: api.NamespaceHost}, Namespaces: api.NamespaceSet{PID: api.NamespaceHost}, Security: []string{"nesting=false"}}
	for _, r := range chrootRefuses() {
		if r.asked(&host) {
			t.Errorf("the host's namespaces are refused: %s", r.What)
		}
	}
}

// TestChrootRights: who may change the root gets out of it, so nobody may but who asks.
func TestChrootRights(t *testing.T) {
	has := func(s api.ContainerSpec, name string) bool {
		names, err := rights(&s, s.Privileged)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(strings.Join(names, " "), name)
	}
	chroot := api.ContainerSpec{Isolation: api.IsolationChroot}
	if has(chroot, chrootDrop) || !has(chroot, "CAP_CHOWN") || !has(api.ContainerSpec{}, chrootDrop) {
		t.Error("CAP_SYS_CHROOT is level container's alone")
	}
	for _, add := range [][]string{{"CAP_SYS_CHROOT"}, {"ALL"}} {
		if s := (api.ContainerSpec{Isolation: api.IsolationChroot, CapAdd: add}); !has(s, chrootDrop) {
			t.Errorf("--cap-add %s: not given", add)
		}
	}
	for _, c := range []struct {
		s    api.ContainerSpec
		want bool
	}{{chroot, false}, {api.ContainerSpec{CapAdd: []string{"CAP_MKNOD"}}, true}, {api.ContainerSpec{Privileged: true}, true}} {
		if got := len(withoutNodes(&c.s, []string{"CAP_MKNOD"})) == 1; got != c.want {
			t.Errorf("%+v without a control group makes nodes: %t", c.s.CapAdd, got)
		}
	}
}
