package userns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

func m(list ...uint32) (l []specs.LinuxIDMapping) {
	for i := 0; i < len(list); i += 3 {
		l = append(l, specs.LinuxIDMapping{ContainerID: list[i], HostID: list[i+1], Size: list[i+2]})
	}
	return l
}

func TestValidate(t *testing.T) {
	many := make([]uint32, 0, 341*3)
	for i := range uint32(341) {
		many = append(many, i, i+1000, 1)
	}
	for _, c := range []struct {
		list  []specs.LinuxIDMapping
		words string // "": right
	}{
		{nil, ""},
		{m(0, 100000, 65536), ""},
		{m(0, 1000, 1, 1, 100000, 65535), ""},
		{m(0, 0, 4294967295), ""},
		{m(4294967295, 5, 1), ""},
		{m(many[:340*3]...), ""},
		{m(many...), "341 ranges"},
		{m(0, 5, 0), "f[0].size"},
		{m(0, 1, 4294967295, 4294967295, 0, 2), "f[1]: the range"},
		{m(0, 4294967295, 2), "f[0]: the range"},
		{m(0, 100, 10, 9, 200, 1), "f[1] overlaps with f[0]"},
		{m(0, 100, 10, 10, 109, 1), "f[1] overlaps with f[0]"},
		{m(0, 100, 10, 10, 110, 1), ""},
	} {
		err := Validate("f", c.list)
		if c.words == "" && err != nil || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words) || !errors.Is(err, api.InvalidArgument)) {
			t.Errorf("%v: %v, want %q", c.list, err, c.words)
		}
	}
}

func TestHas(t *testing.T) {
	list := m(0, 1000, 1, 10, 2000, 5, 4294967295, 7, 1)
	for id, want := range map[uint32]bool{0: true, 1: false, 9: false, 10: true, 14: true, 15: false, 1000: false, 4294967294: false, 4294967295: true} {
		if Has(list, id) != want {
			t.Errorf("Has(%d) is %v", id, !want)
		}
	}
}

// TestMap maps a new user namespace. What users without root's rights may map is tried in test/runtime.
func TestMap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("other ids are root's to map")
	}
	for _, c := range []struct {
		ids   []specs.LinuxIDMapping
		words string
	}{{m(0, 100000, 10, 10, 5, 1), ""}, {m(0, 100000, 10, 5, 5, 1), "overlap"}} {
		cmd := exec.Command("sleep", "100")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, Pdeathsig: unix.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		err := Map(cmd.Process.Pid, c.ids, c.ids)
		dir := "/proc/" + strconv.Itoa(cmd.Process.Pid)
		uids, _ := os.ReadFile(dir + "/uid_map")
		gids, _ := os.ReadFile(dir + "/gid_map")
		setgroups, _ := os.ReadFile(dir + "/setgroups")
		cmd.Process.Kill()
		cmd.Wait()
		if c.words != "" {
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v: %v, want %q", c.ids, err, c.words)
			}
			continue
		}
		want := strings.Fields(lines(c.ids))
		if err != nil || !slices.Equal(strings.Fields(string(uids)), want) || !slices.Equal(strings.Fields(string(gids)), want) || string(setgroups) != "allow\n" {
			t.Errorf("%v: %v; uid_map %q, gid_map %q, setgroups %q", c.ids, err, uids, gids, setgroups)
		}
	}
}

// TestNew: the namespace has the mappings that were asked for, and the child that carried it is gone.
func TestNew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: writes mappings")
	}
	before := children(t)
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 7, Size: 3}}
	fd, err := New(ids, ids)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if after := children(t); after != before {
		t.Errorf("children after %q, before %q", after, before)
	}
	if _, err := New([]specs.LinuxIDMapping{{Size: 5}, {Size: 5}}, ids); err == nil || !strings.Contains(err.Error(), "ranges overlap") {
		t.Errorf("overlapping ranges: %v", err)
	}
}

// children are those of this process.
func children(t *testing.T) string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, l := range lists {
		data, _ := os.ReadFile(l)
		all = append(all, data...)
	}
	return string(all)
}
