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
