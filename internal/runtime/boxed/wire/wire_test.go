package wire

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMessages: what is encoded is decoded, and what is too short, or another's, is told from it.
func TestMessages(t *testing.T) {
	for _, o := range []Outcome{{}, {Status: 9}, {Error: "why", Code: 127}} {
		if got, err := DecodeOutcome(o.Encode()); err != nil || got != o {
			t.Errorf("%+v: %+v, %v", o, got, err)
		}
	}
	if _, err := DecodeOutcome([]byte{1, 2, 3}); err == nil {
		t.Error("a short outcome is taken")
	}
	for _, b := range []Begun{{}, {126, "why not"}} {
		if got, ok := DecodeBegun(b.Encode()); !ok || got != b {
			t.Errorf("%+v: %+v, %t", b, got, ok)
		}
	}
	long := Begun{125, strings.Repeat("x", 2*MaxBegun)}.Encode()
	if got, ok := DecodeBegun(long); len(long) != MaxBegun || !ok || got.Code != 125 {
		t.Errorf("a long reason: %d bytes, %t", len(long), ok)
	}
	for _, b := range [][]byte{nil, {1}, {25, 0, 0, 0, 2, 0, 0, 0}} { // the last is the runtime's own child's
		if got, ok := DecodeBegun(b); ok {
			t.Errorf("%v: %+v", b, got)
		}
	}
}

// TestExecEnviron: whatever its length, an Exec arrives, in variables each of which execve(2) takes.
func TestExecEnviron(t *testing.T) {
	for _, n := range []int{0, 1, execPart, execPart + 1, 1 << 20} {
		exec := strings.Repeat("x=", n)[:n]
		env := map[string]string{}
		for _, v := range ExecEnviron([]byte(exec)) {
			name, value, _ := strings.Cut(v, "=")
			env[name] = value
			if len(v) >= 128<<10 {
				t.Errorf("%s has %d bytes", name, len(v))
			}
		}
		if got := AskedExec(func(name string) string { return env[name] }); string(got) != exec {
			t.Errorf("of %d bytes %d arrive", n, len(got))
		}
	}
}

// TestSignalOf: what is told and the exit status have to agree.
func TestSignalOf(t *testing.T) {
	for told, want := range map[string]int{"signal 11": 11, "signal 9": 0, "signal": 0, "signal x": 0, "signal -117": 0, "monitor": 0, "": 0} {
		if got := SignalOf(told, 139); got != want {
			t.Errorf("%q: %d, want %d", told, got, want)
		}
	}
	if got := SignalOf("signal 127", 255); got != 0 {
		t.Error("a signal that there is not: ", got)
	}
}

// TestBound: what is the host's is in the box, what a kernel makes is not.
func TestBound(t *testing.T) {
	for _, tc := range []struct {
		m    specs.Mount
		want bool
	}{
		{specs.Mount{Type: "bind"}, true},
		{specs.Mount{Type: "overlay"}, true}, // the files of an image
		{specs.Mount{Type: "tmpfs"}, false},
		{specs.Mount{Type: "tmpfs", Options: []string{"rbind"}}, true},
		{specs.Mount{Type: "proc"}, false},
		{specs.Mount{Type: "cgroup2", Options: []string{"ro"}}, false},
	} {
		if Bound(&tc.m) != tc.want {
			t.Errorf("%+v: %t", tc.m, !tc.want)
		}
	}
}
