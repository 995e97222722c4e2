package engine

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"brig/api"
	"brig/internal/store/meta"
)

func TestMergeEnv(t *testing.T) {
	for _, tc := range []struct{ env, more, want string }{
		{"A=1 B=2", "", "A=1 B=2"},
		{"A=1 B=2", "A=3 C=4", "A=3 B=2 C=4"},
		{"A=1 AB=2", "AB=3", "A=1 AB=3"},
		{"AB=1", "A=2", "AB=1 A=2"},
		{"A=1 B=2", "A", "B=2"},
		{"A=1", "B", "A=1"},
		{"A=1", "A=", "A="},
		{"", "A=x=y A=z", "A=z"},
		{"A=1", "A A=2", "A=2"},
	} {
		got := mergeEnv(strings.Fields(tc.env), strings.Fields(tc.more))
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s with %s: %v, want %s", tc.env, tc.more, got, tc.want)
		}
	}
	c := &api.Container{ID: strings.Repeat("ab", 32), Spec: api.ContainerSpec{TTY: true, Env: []string{"TERM=vt100", "HOSTNAME"}}}
	c.ImageConfig.Env = []string{"PATH=/image", "X=image"}
	if got := environment(c); !slices.Equal(got, []string{"PATH=/image", "TERM=vt100", "X=image"}) {
		t.Errorf("environment %v", got)
	}
}

func TestCommandMerge(t *testing.T) {
	entry := func(s ...string) *[]string { return &s }
	for name, tc := range map[string]struct {
		spec            api.ContainerSpec
		entrypoint, cmd []string
		want            string
	}{
		"image's":          {api.ContainerSpec{}, []string{"e"}, []string{"c"}, "e c"},
		"command":          {api.ContainerSpec{Command: []string{"x"}}, []string{"e"}, []string{"c"}, "e x"},
		"entrypoint":       {api.ContainerSpec{Entrypoint: entry("n")}, []string{"e"}, []string{"c"}, "n"},
		"both":             {api.ContainerSpec{Entrypoint: entry("n"), Command: []string{"x", "y"}}, []string{"e"}, []string{"c"}, "n x y"},
		"cleared":          {api.ContainerSpec{Entrypoint: entry(), Command: []string{"x"}}, []string{"e"}, []string{"c"}, "x"},
		"cleared, nothing": {api.ContainerSpec{Entrypoint: entry()}, []string{"e"}, []string{"c"}, ""},
		"nothing":          {api.ContainerSpec{}, nil, nil, ""},
		"empty":            {api.ContainerSpec{Command: []string{"", "x"}}, nil, nil, ""},
	} {
		got, err := command(&tc.spec, tc.entrypoint, tc.cmd)
		if strings.Join(got, " ") != tc.want || (tc.want == "") != (api.KindOf(err) == api.InvalidArgument) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestParseSecurity(t *testing.T) {
	for opts, want := range map[string]security{
		"": {}, "no-new-privileges": {noNewPrivileges: true}, "no-new-privileges=true": {noNewPrivileges: true}, "no-new-privileges:true": {noNewPrivileges: true},
		"no-new-privileges no-new-privileges=false": {}, "seccomp=unconfined": {unconfined: true}, "seccomp:unconfined": {unconfined: true},
		"seccomp=/a:b.json": {profile: "/a:b.json"}, "seccomp=/f seccomp=builtin": {}, "seccomp=unconfined seccomp=/f": {profile: "/f"},
		"apparmor=unconfined label=disable label:disable": {},
	} {
		got, err := parseSecurity(strings.Fields(opts))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", opts, got, err)
		}
		if got.builtin() != (!want.unconfined && want.profile == "") {
			t.Errorf("%s: builtin %v", opts, got.builtin())
		}
	}
	for opt, kind := range map[string]api.Kind{
		"no-new-privileges=maybe": api.InvalidArgument, "seccomp": api.InvalidArgument, "seccomp=": api.InvalidArgument, "": api.InvalidArgument,
		"what=ever": api.InvalidArgument, "systempaths=unconfined": api.InvalidArgument, "apparmor=p": api.Unsupported, "apparmor": api.Unsupported, "label=type:x": api.Unsupported,
	} {
		if _, err := parseSecurity([]string{opt}); api.KindOf(err) != kind {
			t.Errorf("%q: %v", opt, err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]syscall.Signal{
		"1": 1, "64": 64, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "term": 15, "Usr1": 10, "WINCH": 28,
		"RTMIN": 34, "SIGRTMIN+1": 35, "rtmin+30": 64, "RTMAX": 64, "SIGRTMAX-30": 34, "RTMAX-1": 63,
	} {
		if got, err := parseSignal(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "-1", "65", "SIG", "NOSUCH", "SIGSIGKILL", "RTMIN-1", "RTMAX+1", "RTMIN+31", "RTMINx", "RTMIN+99999999999999999999", " KILL", "9 "} {
		if got, err := parseSignal(s); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
}

func TestMatchesPlatform(t *testing.T) {
	for _, tc := range []struct {
		have, want string
		match      bool
	}{
		{"linux/amd64", "", true}, {"linux/amd64", "linux/amd64", true}, {"linux/arm/v7", "linux/arm", true}, {"linux/arm/v7", "linux/arm/v7", true},
		{"linux/arm64", "linux/arm", false}, {"linux/arm", "linux/arm/v7", false}, {"linux/amd64", "linux/arm64", false}, {"linux/arm/v7", "linux", true},
	} {
		if got := matchesPlatform(&api.Image{Platform: tc.have}, tc.want); got != tc.match {
			t.Errorf("%s for %q: %v", tc.have, tc.want, got)
		}
	}
}

func TestRandomName(t *testing.T) {
	plain, numbered := regexp.MustCompile(`^[a-z]+_[a-z]+$`), regexp.MustCompile(`^[a-z]+_[a-z]+[0-9]{1,4}$`)
	seen := map[string]bool{}
	for range 200 {
		for try := range 3 {
			name := randomName(try)
			seen[name] = true
			if try < 2 && !plain.MatchString(name) || try == 2 && !numbered.MatchString(name) {
				t.Errorf("try %d: %s", try, name)
			}
			if err := meta.CheckName(name); err != nil {
				t.Error(err)
			}
		}
	}
	if len(seen) < 300 {
		t.Errorf("%d different names of 600", len(seen))
	}
}

func TestUserAndFolder(t *testing.T) {
	for who, want := range map[string]bool{"": true, "root": true, "0": true, "00:5": true, "root:x": true, "1": false, "10": false, "ann": false, "rooty": false} {
		if isRoot(who) != want {
			t.Errorf("%q is root: %v", who, !want)
		}
	}
	s := &api.ContainerSpec{}
	if workingDir(s, "") != "/" || workingDir(s, "a/../../b") != "/b" || userOf(s, "") != "0" || userOf(s, "ann") != "ann" {
		t.Error("the image's")
	}
	s.WorkingDir, s.User = "/mine", "me"
	if workingDir(s, "/img") != "/mine" || userOf(s, "ann") != "me" {
		t.Error("the user's")
	}
}
