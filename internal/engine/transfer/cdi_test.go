package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/api"
)

// TestCDI: what a file says is what is done, a later folder goes before an earlier one, and a file that is wrong is in nobody's way but its own.
func TestCDI(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(first, "a.yaml", "cdiVersion: 0.6.0\nkind: vendor.com/gpu\ncontainerEdits: {env: [ALL=1]}\ndevices:\n- {name: '0', containerEdits: {env: [OLD=1]}}\n- {name: '1', containerEdits: {deviceNodes: [{path: /dev/x}], additionalGids: [5]}}\n")
	write(first, "bad.json", `{"cdiVersion":"0.6.0","kind":"bad.com/x","devices":[{"name":"y","containerEdits":{"escape":1}}]}`)
	write(first, "ignored.txt", "no specification")
	write(second, "b.json", `{"cdiVersion":"0.5.0","kind":"vendor.com/gpu","devices":[{"name":"0","containerEdits":{"env":["NEW=1"],"mounts":[{"hostPath":"/etc","containerPath":"/opt","options":["ro"]}]}}]}`)
	ask := func(names ...string) (*api.DeviceEdits, error) {
		rep, err := new(Transfer).DeviceEdits(api.TransferRequest{Refs: names, Dirs: []string{first, second, "/nonexistent"}})
		return rep.Devices, err
	}
	e, err := ask("vendor.com/gpu=0", "vendor.com/gpu=1", "vendor.com/gpu=1")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(e.Env, " "); got != "NEW=1 ALL=1" {
		t.Errorf("env %q", got)
	}
	if len(e.Nodes) != 2 || e.Nodes[0].Source != "/dev/x" || e.Nodes[0].Permissions != "rwm" || len(e.Mounts) != 1 || strings.Join(e.Mounts[0].Options, " ") != "rbind ro" || e.GIDs[0] != 5 {
		t.Errorf("%+v", e)
	}
	for _, name := range []string{"bad.com/x=y", "vendor.com/gpu=2"} {
		if _, err := ask(name); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "there are vendor.com/gpu=0, vendor.com/gpu=1") || !strings.Contains(err.Error(), "field escape not found") {
			t.Errorf("%s: %v", name, err)
		}
	}
	write(second, "c.yml", "cdiVersion: 0.6.0\nkind: vendor.com/gpu\ndevices:\n- {name: '0'}\n")
	if _, err := ask("vendor.com/gpu=1"); err == nil || !strings.Contains(err.Error(), "is both in") {
		t.Errorf("a name that stands twice: %v", err)
	}
	os.Remove(filepath.Join(second, "c.yml"))
	if err := os.Chmod(filepath.Join(first, "a.yaml"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := ask("vendor.com/gpu=1"); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "may be written by others") {
		t.Errorf("a file that all may write: %v", err)
	}
	if err := os.Chmod(second, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := ask("vendor.com/gpu=0"); !errors.Is(err, api.Denied) {
		t.Errorf("a folder that all may write: %v", err)
	}
}

// TestCDIRefusals: an edit that leads astray is refused with the device that has it.
func TestCDIRefusals(t *testing.T) {
	for edits, want := range map[string]string{
		`mounts: [{hostPath: /etc, containerPath: /opt/../../etc}]`:      "without ..",
		`mounts: [{hostPath: etc, containerPath: /opt}]`:                 "absolute",
		`mounts: [{hostPath: /, containerPath: /opt}]`:                   "absolute",
		`mounts: [{hostPath: /etc, containerPath: /opt, type: overlay}]`: "type",
		`deviceNodes: [{path: ../dev/sda}]`:                              "absolute",
		`deviceNodes: [{path: /dev/x, permissions: rx}]`:                 "rwm",
		`hooks: [{hookName: poststop, path: /bin/true}]`:                 "poststop",
		`hooks: [{hookName: createContainer, path: true}]`:               "absolute",
		`env: ["=x"]`:           "NAME=VALUE",
		`intelRdt: {closID: x}`: "intelRdt",
	} {
		s, err := parseCDI([]byte("cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n- name: x\n  containerEdits: {" + edits + "}\n"))
		if err != nil {
			t.Errorf("%s: %v", edits, err)
			continue
		}
		if err := addEdits(new(api.DeviceEdits), &s.Devices[0].Edits); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", edits, err, want)
		}
	}
	for _, bad := range []string{"", "x", "cdiVersion: 2.0\nkind: a/b", "cdiVersion: 0.6.0\nkind: ab", "cdiVersion: 0.6.0\nkind: ../b", "cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: a/b}]", "[1]"} {
		if _, err := parseCDI([]byte(bad)); err == nil {
			t.Errorf("%q is a specification", bad)
		}
	}
}

func FuzzCDI(f *testing.F) {
	f.Add([]byte("cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n- name: x\n  containerEdits: {env: [A=B]}\n"))
	f.Add([]byte(`{"cdiVersion":"0.5.0","kind":"v.com/c","devices":[{"name":"0","containerEdits":{"mounts":[{"hostPath":"/etc","containerPath":"/opt"}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseCDI(data)
		if err != nil {
			return
		}
		for i := range s.Devices {
			e := new(api.DeviceEdits)
			if addEdits(e, &s.Devices[i].Edits) != nil {
				continue
			}
			for _, m := range e.Mounts {
				if !cleanPath(m.Destination) {
					t.Errorf("%q came through", m.Destination)
				}
			}
		}
	})
}
