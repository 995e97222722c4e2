package oci

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

func TestCandidates(t *testing.T) {
	for _, tc := range []struct{ cmd, env, want string }{
		{"sh", "PATH=/usr/bin:/bin", "/usr/bin/sh /bin/sh"},
		{"sh", "PATH=/a|PATH=/b", "/b/sh"},
		{"sh", "PATH=:/b:", "./sh /b/sh ./sh"},
		{"sh", "XPATH=/a", "./sh"},
		{"/bin/sh", "PATH=/x", "/bin/sh"},
		{"./a", "PATH=/x", "./a"},
		{"a/b", "", "a/b"},
	} {
		c := new(child)
		if err := c.candidates(tc.cmd, strings.Split(tc.env, "|")); err != nil {
			t.Errorf("%s: %v", tc.cmd, err)
		}
		var got []string
		for _, p := range c.paths {
			got = append(got, unix.BytePtrToString(p))
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s with %s: %v, want %s", tc.cmd, tc.env, got, tc.want)
		}
	}
	for cmd, env := range map[string]string{"": "PATH=/", "a\x00": "PATH=/", "/a\x00": "", "a": "PATH=/\x00"} {
		if err := new(child).candidates(cmd, []string{env}); err == nil {
			t.Errorf("%q with %q is taken", cmd, env)
		}
	}
}

func TestCapabilitySets(t *testing.T) {
	c := new(child)
	all := []string{"CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"}
	c.capabilities(&specs.LinuxCapabilities{
		Bounding: all, Effective: all[:1], Permitted: all[:2], Inheritable: all[1:], Ambient: all,
	})
	if !slices.Equal(c.ambient, []uintptr{unix.CAP_NET_RAW}) { // alone permitted and inheritable
		t.Errorf("ambient %v", c.ambient)
	}
	for n, kept := range map[uintptr]bool{unix.CAP_CHOWN: true, unix.CAP_NET_RAW: true, unix.CAP_KILL: true, unix.CAP_SYS_ADMIN: false, unix.CAP_MKNOD: false} {
		if slices.Contains(c.dropBounding, n) == kept {
			t.Errorf("bounding set: capability %d kept: %v", n, !kept)
		}
	}
	if !c.caps.set {
		t.Error("the sets are not set")
	}
	none := new(child)
	if none.capabilities(nil); len(none.dropBounding) < 38 || !none.caps.set || len(none.ambient) != 0 {
		t.Errorf("none: %d dropped", len(none.dropBounding))
	}
	unknown, without := new(child), &specs.LinuxCapabilities{Bounding: all, Permitted: []string{"CAP_KILL"}}
	with := &specs.LinuxCapabilities{Bounding: append(all, "CAP_NO_SUCH"), Permitted: []string{"CAP_KILL", "CAP_NO_SUCH"}}
	unknown.capabilities(with)
	known := new(child)
	known.capabilities(without)
	if unknown.caps != known.caps || !slices.Equal(unknown.dropBounding, known.dropBounding) {
		t.Error("an unknown capability changes the sets")
	}
	if w := Warnings(&specs.Spec{Process: &specs.Process{Capabilities: with}}); len(w) != 1 || !strings.Contains(w[0], "CAP_NO_SUCH") {
		t.Errorf("warnings: %q", w)
	}
	if w := Warnings(&specs.Spec{Process: &specs.Process{Capabilities: without}}); len(w) != 0 {
		t.Errorf("warnings of known ones: %q", w)
	}
}

func TestRlimitNumbers(t *testing.T) {
	names := strings.Fields("CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME") // in the order of asm-generic/resource.h
	for i, name := range names {
		if n, ok := rlimitNumber("RLIMIT_" + name); !ok || n != uintptr(i) {
			t.Errorf("%s: %d, %v; want %d", name, n, ok, i)
		}
	}
	for _, name := range []string{"", "NOFILE", "RLIMIT_", "rlimit_nofile", "RLIMIT_NLIMITS"} {
		if _, ok := rlimitNumber(name); ok {
			t.Errorf("%q is known", name)
		}
	}
}

func TestHasEnv(t *testing.T) {
	env := []string{"HOMER=x", "A=HOME=", "HOME", "EMPTY=", "B=c"}
	for name, want := range map[string]bool{"HOME": false, "HOMER": true, "EMPTY": true, "B": true, "c": false, "A=HOME": true} {
		if got := hasEnv(env, name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFilterOf(t *testing.T) {
	l := new(specs.LinuxSeccomp)
	if f, err := FilterOf(map[string]string{AnnotationSeccomp: SeccompDefault}, l); err != nil || !f.Default || f.Spec != nil {
		t.Errorf("default: %+v, %v", f, err)
	}
	if f, err := FilterOf(nil, l); err != nil || f.Default || f.Spec != l {
		t.Errorf("own: %+v, %v", f, err)
	}
	if _, err := FilterOf(map[string]string{AnnotationSeccomp: "none"}, l); api.KindOf(err) != api.InvalidArgument {
		t.Errorf("unknown value: %v", err)
	}
}

// TestFailureKinds: docker's exit codes 126 and 127 hang on the kind.
func TestFailureKinds(t *testing.T) {
	for _, tc := range []struct {
		stage int32
		errno unix.Errno
		want  api.Kind
	}{
		{stageExec, unix.ENOENT, api.CommandNotFound}, {stageExec, unix.ENOTDIR, api.CommandNotFound},
		{stageExec, unix.EACCES, api.CommandNotRunnable}, {stageExec, unix.ENOEXEC, api.CommandNotRunnable}, {stageExec, unix.E2BIG, api.CommandNotRunnable},
		{stageCwd, unix.ENOENT, api.CommandNotRunnable}, {stageCwdOutside, 0, api.InvalidArgument}, {stageRlimit, unix.EPERM, api.Unsupported},
	} {
		for _, name := range []string{"sh", "/bin/sh"} {
			if err := (&Process{name: name}).failure(tc.stage, tc.errno); api.KindOf(err) != tc.want {
				t.Errorf("stage %d, %v: %v is %s", tc.stage, tc.errno, err, api.KindOf(err))
			}
		}
	}
	if err := (&Process{name: "sh"}).failure(9999, unix.EIO); !strings.Contains(fmt.Sprint(err), "unknown stage") {
		t.Error(err)
	}
}
