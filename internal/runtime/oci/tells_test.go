package oci

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime/boxed/wire"
)

// TestBegun: what a process that starts another says becomes the error of its start; so does what the runtime's own child says before, and its end.
func TestBegun(t *testing.T) {
	for name, tc := range map[string]struct {
		said []byte
		kind api.Kind
		want string
	}{
		"it runs":              {wire.Begun{}.Encode(), "", ""},
		"not found":            {wire.Begun{Code: 127, Why: "exec x: no such file"}.Encode(), api.CommandNotFound, "exec x: no such file"},
		"not runnable":         {wire.Begun{Code: 126, Why: "exec x: permission denied"}.Encode(), api.CommandNotRunnable, "permission denied"},
		"cannot":               {wire.Begun{Code: 125, Why: "no memory"}.Encode(), "", "no memory"},
		"the child's failure":  {word(stageExec, unix.ENOENT), api.CommandNotFound, "exec monitor"},
		"its end":              {nil, "", "it was killed before it had begun"},
		"a word that is short": {[]byte{1, 2}, "", "it was killed before it had begun"},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if tc.said != nil {
			if _, err := unix.Write(fds[1], tc.said); err != nil {
				t.Fatal(err)
			}
		}
		unix.Close(fds[1])
		p := &Process{talk: fds[0], name: "monitor", PidFD: -1}
		err = p.begun()
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)), tc.kind != "" && api.KindOf(err) != tc.kind:
			t.Errorf("%s: %v", name, err)
		}
		if p.talk != -1 {
			t.Errorf("%s: the socket is still open", name)
		}
	}
}
