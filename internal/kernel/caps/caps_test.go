package caps

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
)

func TestNumbers(t *testing.T) {
	if len(names) != unix.CAP_LAST_CAP+1 {
		t.Fatalf("%d names, the library knows %d capabilities", len(names), unix.CAP_LAST_CAP+1)
	}
	for _, c := range []struct {
		name string
		n    int
		ok   bool
	}{
		{"CAP_CHOWN", unix.CAP_CHOWN, true}, {"chown", unix.CAP_CHOWN, true}, {"cap_Sys_Admin", unix.CAP_SYS_ADMIN, true},
		{"CAP_SYSLOG", unix.CAP_SYSLOG, true}, {"NET_RAW", unix.CAP_NET_RAW, true}, {"bpf", unix.CAP_BPF, true},
		{"CAP_CHECKPOINT_RESTORE", unix.CAP_CHECKPOINT_RESTORE, true}, {"CAP_CAP_CHOWN", 0, false}, {"", 0, false}, {"ALL", 0, false},
	} {
		if n, ok := Number(c.name); n != c.n || ok != c.ok {
			t.Errorf("Number(%q) = %d, %v", c.name, n, ok)
		}
	}
	for n := range names {
		if back, ok := Number(Name(n)); !ok || back != n {
			t.Errorf("%d is named %q, which is %d", n, Name(n), back)
		}
	}
	if Name(-1) != "" || Name(63) != "" {
		t.Error("names where there are none")
	}
}

func TestKernelAgrees(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Skip(err)
	}
	if want, _ := strconv.Atoi(strings.TrimSpace(string(b))); Last() != want {
		t.Errorf("Last() = %d, the kernel says %d", Last(), want)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapBnd:\t")
	line, _, _ := strings.Cut(rest, "\n")
	if want, _ := strconv.ParseUint(line, 16, 64); uint64(Available()) != want {
		t.Errorf("Available() = %x, the kernel says %x", Available(), want)
	}
}

func TestDefaultIsDockers(t *testing.T) {
	// 00000000a80425fb is what /proc/self/status shows in any docker container.
	if Default != 0xa80425fb {
		t.Errorf("Default = %x", uint64(Default))
	}
}

func TestResolve(t *testing.T) {
	everything := Available()
	if everything&Default != Default {
		t.Skip("this process lacks capabilities of the default set")
	}
	for _, c := range []struct {
		add, drop  []string
		privileged bool
		want       Set
	}{
		{nil, nil, false, Default},
		{nil, nil, true, everything},
		{nil, []string{"ALL"}, true, everything},
		{[]string{"net_admin"}, nil, false, Default | 1<<unix.CAP_NET_ADMIN},
		{nil, []string{"CAP_CHOWN", "cap_kill"}, false, Default &^ (1<<unix.CAP_CHOWN | 1<<unix.CAP_KILL)},
		{[]string{"chown"}, []string{"chown"}, false, Default},
		{[]string{"all"}, []string{"SYS_ADMIN"}, false, everything &^ (1 << unix.CAP_SYS_ADMIN)},
		{[]string{"chown", "kill"}, []string{"All"}, false, 1<<unix.CAP_CHOWN | 1<<unix.CAP_KILL},
		{[]string{"ALL"}, []string{"ALL"}, false, everything},
		{nil, []string{"ALL"}, false, 0},
	} {
		got, err := Resolve(c.add, c.drop, c.privileged)
		if err != nil {
			t.Errorf("%v %v: %v", c.add, c.drop, err)
		} else if !slices.Equal(got, c.want.Names()) {
			t.Errorf("add %v drop %v privileged %v: %v, want %v", c.add, c.drop, c.privileged, got, c.want.Names())
		}
	}
}

func TestUnknown(t *testing.T) {
	for _, c := range [][2][]string{{{"CAP_FLY"}, nil}, {nil, {"chown", "fly"}}} {
		if _, err := Resolve(c[0], c[1], false); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if s := Known([]string{"CAP_FLY", "CAP_CHOWN"}); s != 1<<unix.CAP_CHOWN {
		t.Errorf("Known = %x", uint64(s))
	}
}

func TestCapset(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread with fewer capabilities dies with this goroutine
		d := NewData(1<<unix.CAP_CHOWN, 1<<unix.CAP_CHOWN|1<<unix.CAP_KILL, 0)
		if err := d.Set(); err != nil {
			done <- err
			return
		}
		var back Data
		back.Header.Version = unix.LINUX_CAPABILITY_VERSION_3
		if err := unix.Capget(&back.Header, &back.Sets[0]); err != nil {
			done <- err
			return
		}
		if back.Sets != d.Sets {
			done <- errors.New("capget does not return what capset set")
			return
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := NewData(1<<unix.CAP_BPF, 0, 1<<40); d.Sets[1].Effective != 1<<(unix.CAP_BPF-32) || d.Sets[1].Inheritable != 1<<8 {
		t.Errorf("high words: %+v", d.Sets)
	}
}
