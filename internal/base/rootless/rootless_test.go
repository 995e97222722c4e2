package rootless

import (
	"strings"
	"testing"
)

func TestVariable(t *testing.T) {
	for _, c := range []struct {
		value   string
		uid, fd int
		ok      bool
	}{
		{"1000:7", 1000, 7, true}, {"", 0, 0, false}, {"1000", 0, 0, false}, {"0:7", 0, 0, false}, {"-1:7", 0, 0, false}, {"1000:2", 0, 0, false},
		{"a:7", 0, 0, false}, {"1000:b", 0, 0, false},
	} {
		t.Setenv(Env, c.value)
		uid, ok := UID()
		if ok != c.ok || Active() != c.ok || ok && (uid != c.uid || Membership() != c.fd) || !ok && Membership() != -1 {
			t.Errorf("%q: %d %d %v", c.value, uid, Membership(), ok)
		}
	}
	if _, value, _ := strings.Cut(Variable(1000, 7), "="); value != "1000:7" {
		t.Error(Variable(1000, 7))
	}
}

func TestNested(t *testing.T) {
	t.Setenv(Env, "nested")
	if !Nested() || !Active() || User() || Membership() != -1 {
		t.Errorf("nested %t, active %t, user %t", Nested(), Active(), User())
	}
	if got := Environ(5); len(got) != 1 || got[0] != Env+"=nested" {
		t.Error(got)
	}
	t.Setenv(Env, "1000:7")
	if Look(); Nested() || !User() {
		t.Error("a normal user's Brig was taken for a nested one")
	}
	if got := Environ(5); len(got) != 1 || got[0] != Env+"=1000:5" {
		t.Error(got)
	}
	t.Setenv(Env, "")
	if got := Environ(5); got != nil || Active() {
		t.Error(got)
	}
}
