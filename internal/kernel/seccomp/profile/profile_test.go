package profile

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/seccomp"
)

var update = flag.Bool("update", false, "write the programs that are made ahead")

var dockerDefault = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// conditional are all capabilities that the default profile asks about.
func conditional() (list []string) {
	for i := range defaultRules {
		for _, c := range slices.Concat(defaultRules[i].Includes.Caps, defaultRules[i].Excludes.Caps) {
			if !slices.Contains(list, c) {
				list = append(list, c)
			}
		}
	}
	return list
}

// capSets are none, the default, each conditional capability alone and with the default, and all.
func capSets() [][]string {
	sets := [][]string{nil, dockerDefault, conditional()}
	for _, c := range conditional() {
		sets = append(sets, []string{c}, append(slices.Clone(dockerDefault), c))
	}
	return sets
}

// The generated data says what moby's own loader says.
func TestDefaultIsMobys(t *testing.T) {
	for _, set := range capSets() {
		rs := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: set}}}
		want, err := moby.GetDefaultProfile(rs)
		if err != nil {
			t.Fatal(err)
		}
		if got := Default(set); !reflect.DeepEqual(got, want) {
			t.Errorf("with %v: the profile differs from moby's: go generate", set)
		}
	}
}

func TestPrecompiled(t *testing.T) {
	none := &host{"", version{6, 1}, nil}
	std := &host{"", version{6, 1}, dockerDefault}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, c := range []struct {
			file string
			h    *host
			want uint64
		}{{"default_", std, selectionDefault}, {"none_", none, selectionNone}} {
			c.h.arch = arch
			if got := selection(c.h); got != c.want {
				t.Errorf("%s%s: the selection is %#x, selections.go has %#x", c.file, arch, got, c.want)
			}
			f, err := seccomp.CompileFor(arch, defaultFor(c.h))
			if err != nil {
				t.Fatal(err)
			}
			path := c.file + arch + ".bin"
			if *update {
				if err := os.WriteFile(path, f.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if have, err := os.ReadFile(path); err != nil || string(have) != string(f.Bytes()) {
				t.Errorf("%s is not what the compiler makes now: go generate (%v)", path, err)
			}
		}
	}
}

// Whatever the capabilities: the program made ahead, where there is one, is the one compiled.
func TestDefaultFilter(t *testing.T) {
	ahead := 0
	for _, set := range append(capSets(), []string{"CAP_SYS_CHROOT", "CAP_CHOWN"}, []string{"CAP_KILL"}) {
		want, err := seccomp.Compile(Default(set))
		if errors.Is(err, api.Unsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := DefaultFilter(set)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("with %v: another program, %v", set, err)
		}
		if s := selection(&host{runtime.GOARCH, kernel(), set}); s == selectionDefault || s == selectionNone {
			ahead++
		}
	}
	if ahead < 4 {
		t.Errorf("only %d sets found a program made ahead", ahead)
	}
}

func TestParse(t *testing.T) {
	const text = `{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
		"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}, {"architecture": "SCMP_ARCH_S390X"}],
		"syscalls": [
			{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
			{"name": "old", "action": "SCMP_ACT_ALLOW", "comment": "one name"},
			{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}},
			{"names": ["nomount"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
			{"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
			{"names": ["noarm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
			{"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
			{"names": ["old2"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "5.10"}},
			{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]}]}`
	for _, c := range []struct {
		h    host
		want []string
	}{
		{host{"amd64", version{5, 9}, nil}, []string{"read", "write", "old", "nomount", "noarm", "old2", "socket"}},
		{host{"amd64", version{5, 10}, []string{"CAP_SYS_ADMIN"}}, []string{"read", "write", "old", "noarm", "new", "socket"}},
		{host{"arm64", version{6, 0}, []string{"CAP_SYS_ADMIN", "CAP_CHOWN"}}, []string{"read", "write", "old", "mount", "arm", "new", "socket"}},
	} {
		p, err := parse([]byte(text), &c.h)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range p.Syscalls {
			got = append(got, s.Names...)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.h, got, c.want)
		}
		if *p.DefaultErrnoRet != 38 || *p.Syscalls[len(p.Syscalls)-1].ErrnoRet != 13 || p.Syscalls[len(p.Syscalls)-1].Args[0].Value != 16 {
			t.Errorf("lost: %+v", p)
		}
		if c.h.arch == "amd64" && !slices.Equal(p.Architectures, []specs.Arch{specs.ArchX86_64, specs.ArchX86}) {
			t.Errorf("architectures: %v", p.Architectures)
		}
	}
}

// Moby's own file, as users copy it to change it, means the same as the profile built in.
func TestParseMobysFile(t *testing.T) {
	text, err := json.Marshal(moby.DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, set := range capSets() {
		p, err := Load(path, set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := seccomp.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := seccomp.Compile(Default(set)); !reflect.DeepEqual(got.Prog, want.Prog) {
			t.Errorf("with %v the file gives another program", set)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":        `{`,
		"no default":     `{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}`,
		"two archs":      `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}`,
		"name and names": `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ERRNO"}]}`,
		"kernel":         `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "includes": {"minKernel": "4.8.1"}}]}`,
		"kernel number":  `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "includes": {"minKernel": 4.8}}]}`,
	} {
		if _, err := Parse([]byte(text), nil); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := Parse([]byte(`{}`), nil); p != nil || err != nil {
		t.Errorf("an empty profile: %v, %v", p, err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, api.NotFound) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Load(t.TempDir(), nil); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("a folder: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]version{"6.18.44-fc-v669": {6, 18}, "4.8": {4, 8}, "5.10-rc1": {5, 10}} {
		if v, ok := parseVersion(text); !ok || v != want {
			t.Errorf("%s: %v, %v", text, v, ok)
		}
	}
	if v := kernel(); v.major < 4 {
		t.Errorf("this kernel is %v", v)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data, dockerDefault)
		if err != nil || p == nil {
			return
		}
		if filter, err := seccomp.Compile(p); err == nil && len(filter.Prog) > seccomp.MaxInstructions {
			t.Error("too long")
		}
	})
}

func BenchmarkDefault(b *testing.B) {
	b.Run("ahead", func(b *testing.B) {
		for b.Loop() {
			DefaultFilter(dockerDefault)
		}
	})
	b.Run("compiled", func(b *testing.B) {
		for b.Loop() {
			seccomp.Compile(Default(append(dockerDefault, "CAP_SYS_PTRACE")))
		}
	})
	b.Run("moby", func(b *testing.B) {
		rs := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: dockerDefault}}}
		for b.Loop() {
			moby.GetDefaultProfile(rs)
		}
	})
}
