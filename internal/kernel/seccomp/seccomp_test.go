package seccomp

import (
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

func families() map[string]family { return map[string]family{"amd64": amd64(), "arm64": arm64()} }

// mobyProfile is docker's default for no capabilities or for CAP_SYS_ADMIN.
func mobyProfile(t testing.TB, arch []specs.Arch, capabilities ...string) *specs.LinuxSeccomp {
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}})
	if err != nil {
		panic(err)
	}
	p.Architectures = arch
	return p
}

func TestTables(t *testing.T) {
	for name, f := range families() {
		if !slices.IsSortedFunc(f.table, func(a, b entry) int { return strings.Compare(a.name, b.name) }) {
			t.Errorf("%s: the table is not sorted", name)
		}
		for i := range f.archs {
			seen := map[uint32]string{}
			for _, e := range f.table {
				if e.nr[i] == 0 {
					continue
				}
				if other := seen[e.nr[i]]; other != "" {
					t.Errorf("%s: %s and %s are both %d", f.archs[i].name, e.name, other, e.nr[i]-1)
				}
				seen[e.nr[i]] = e.name
				if nr := e.nr[i] - 1; nr >= slots-privateSlots && (nr < firstPrivate || nr >= firstPrivate+privateSlots) {
					t.Errorf("%s: %s, number %d, has no slot", f.archs[i].name, e.name, nr)
				}
			}
		}
	}
	x := amd64()
	for name, want := range map[string][3]uint32{
		"read": {1, 4, 1}, "getppid": {unix.SYS_GETPPID + 1, 65, 111}, "socketcall": {0, 103, 0}, "mseal": {463, 463, 463}, "execve": {60, 12, 521},
	} {
		if e := x.find(name); e == nil || e.nr != want {
			t.Errorf("%s: %v", name, e)
		}
	}
	if x.find("") != nil || x.find("zzz") != nil || x.find("nosuchcall") != nil {
		t.Error("found what is not there")
	}
}

func TestDefaultProfile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, f := range families() {
		for _, archs := range [][]specs.Arch{nil, {f.archs[0].name, f.archs[1].name}, {specs.ArchX86, specs.ArchX32, specs.ArchX86_64, specs.ArchARM, specs.ArchMIPS}} {
			for _, capability := range []string{"CAP_CHOWN", "CAP_SYS_ADMIN"} {
				p := mobyProfile(t, archs, capability)
				filter, err := f.compile(p)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, &f, p, filter.Prog, random)
				steps := 0
				for nr := range uint32(460) {
					_, n := run(t, filter.Prog, &data{nr: nr, arch: f.archs[0].audit})
					steps = max(steps, n)
				}
				if len(filter.Prog) > 900 || steps > 60 {
					t.Errorf("%s %v %s: %d instructions, up to %d steps", name, archs, capability, len(filter.Prog), steps)
				}
			}
		}
	}
}

// randomProfile makes a profile out of bytes of a random or fuzzed source.
func randomProfile(f *family, random *rand.Rand) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActTrap, specs.ActTrace, specs.ActLog, specs.ActNotify}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual}
	values := []uint64{0, 1, 2, 16, 0xffffffff, 1 << 32, 1<<32 + 1, 1 << 63, 1<<64 - 1, 0x7e020000}
	p := &specs.LinuxSeccomp{DefaultAction: actions[random.IntN(len(actions)-1)]}
	for _, a := range f.archs {
		if random.IntN(3) > 0 {
			p.Architectures = append(p.Architectures, a.name)
		}
	}
	for range random.IntN(40) {
		s := specs.LinuxSyscall{Action: actions[random.IntN(len(actions))]}
		if s.Action == specs.ActErrno && random.IntN(2) > 0 {
			n := uint(random.IntN(5))
			s.ErrnoRet = &n
		}
		for range 1 + random.IntN(4) {
			name := f.table[random.IntN(len(f.table))].name
			if random.IntN(3) == 0 {
				name = []string{"socket", "clone", "personality", "ipc", "semget", "newer_than_time", "set_tls"}[random.IntN(7)]
			}
			if name != "write" {
				s.Names = append(s.Names, name)
			}
		}
		for range random.IntN(4) * random.IntN(2) {
			s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(random.IntN(6)), Op: ops[random.IntN(len(ops))],
				Value: values[random.IntN(len(values))], ValueTwo: values[random.IntN(len(values))]})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func TestRandomProfiles(t *testing.T) {
	for name, f := range families() {
		for seed := range uint64(40) {
			random := rand.New(rand.NewPCG(seed, 7))
			p := randomProfile(&f, random)
			filter, err := f.compile(p)
			if err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
			compare(t, &f, p, filter.Prog, random)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(uint64(1), uint64(2), false)
	f.Fuzz(func(t *testing.T, a, b uint64, arm bool) {
		fam := amd64()
		if arm {
			fam = arm64()
		}
		random := rand.New(rand.NewPCG(a, b))
		p := randomProfile(&fam, random)
		filter, err := fam.compile(p)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, &fam, p, filter.Prog, random)
	})
}

// Long lists of numbers and long rules need jumps farther than 255 instructions.
func TestFarJumps(t *testing.T) {
	f := amd64()
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32}}
	for i := range uint64(450) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 3 * i}}})
	}
	for i := range uint64(60) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"clone"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{
			{Index: 0, Op: specs.OpGreaterThan, Value: i << 33}, {Index: 1, Op: specs.OpLessEqual, Value: i}, {Index: 2, Op: specs.OpNotEqual, Value: i}}})
	}
	filter, err := f.compile(p)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	o := newOracle(&f, p)
	for _, d := range []data{{nr: 41, arch: unix.AUDIT_ARCH_X86_64}, {nr: 56, arch: unix.AUDIT_ARCH_X86_64}, {nr: 359, arch: unix.AUDIT_ARCH_I386}, {nr: 57, arch: unix.AUDIT_ARCH_X86_64}} {
		for range 400 {
			for i := range d.args {
				d.args[i] = uint64(random.IntN(1400)) << (random.IntN(2) * 33)
			}
			if got, _ := run(t, filter.Prog, &d); got != o.decide(&d) {
				t.Fatalf("%+v: %#x, want %#x", d, got, o.decide(&d))
			}
		}
	}
	for i := range 4000 {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"bind"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpLessThan, Value: uint64(i)}}})
	}
	if _, err := f.compile(p); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("a program that is too long: %v", err)
	}
}

func TestFlagsAndNotify(t *testing.T) {
	const spec = uint(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	for _, c := range []struct {
		p      specs.LinuxSeccomp
		flags  uint
		notify bool
	}{
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, spec, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{}}, 0, false},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv}},
			unix.SECCOMP_FILTER_FLAG_LOG, false}, // the kernel refuses the second without a listener
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}}},
			spec | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, true},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagWaitKillableRecv},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}}},
			unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, true},
	} {
		f, err := Compile(&c.p)
		if errors.Is(err, api.Unsupported) {
			t.Skip(err)
		}
		if err != nil || f.Flags != c.flags || f.Notify != c.notify {
			t.Errorf("%+v: %+v, %v", c.p, f, err)
		}
		if notify, err := Check(&c.p); err != nil || notify != c.notify {
			t.Errorf("Check: %+v: %v, %v", c.p, notify, err)
		}
	}
}

func TestErrors(t *testing.T) {
	errno, far := uint(1), uint(1<<16)
	allow := specs.ActAllow
	one := func(s specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: allow, Syscalls: []specs.LinuxSyscall{s}}
	}
	for name, p := range map[string]specs.LinuxSeccomp{
		"no action":      {},
		"default notify": {DefaultAction: specs.ActNotify},
		"flag":           {DefaultAction: allow, Flags: []specs.LinuxSeccompFlag{"FAST"}},
		"architecture":   {DefaultAction: allow, Architectures: []specs.Arch{"amd64"}},
		"action":         one(specs.LinuxSyscall{Names: []string{"read"}, Action: "SCMP_ACT_BEG"}),
		"notify write":   one(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}),
		"errno of kill":  one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKill, ErrnoRet: &errno}),
		"errno":          one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: &far}),
		"index":          one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		"operator":       one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "=="}}}),
	} {
		if _, err := amd64().compile(&p); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Check(&p); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("Check passes %s: %v", name, err)
		}
	}
	if _, err := CompileFor("sparc", &specs.LinuxSeccomp{DefaultAction: allow}); !errors.Is(err, api.Unsupported) {
		t.Errorf("an architecture without a table: %v", err)
	}
}

func TestBytes(t *testing.T) {
	f, err := CompileFor("amd64", mobyProfile(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(FromBytes(f.Bytes()), f.Prog) {
		t.Error("FromBytes is not the way back from Bytes")
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
	}
	os.Exit(m.Run())
}
