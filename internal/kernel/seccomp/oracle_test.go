package seccomp

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data without the instruction pointer.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// run interprets a program as the kernel would, and refuses what its checker (seccomp_check_filter) refuses. It counts instructions.
func run(t testing.TB, prog []unix.SockFilter, d *data) (ret uint32, steps int) {
	var a uint32
	for pc := 0; pc < len(prog); pc++ {
		steps++
		i := prog[pc]
		jump := func(holds bool) {
			if holds {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch {
			case i.K == 0:
				a = d.nr
			case i.K == 4:
				a = d.arch
			case i.K >= 16 && i.K < 64 && i.K%4 == 0:
				a = uint32(d.args[(i.K-16)/8] >> (8 * (i.K % 8)))
			default:
				t.Fatalf("load from %d at %d", i.K, pc)
			}
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > i.K)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
		case unix.BPF_RET | unix.BPF_K:
			return i.K, steps
		default:
			t.Fatalf("instruction %#x at %d", i.Code, pc)
		}
	}
	t.Fatal("the program runs out of its end")
	return 0, 0
}

// holds is a condition, naively.
func holds(c specs.LinuxSeccompArg, d *data, narrow bool) bool {
	arg, value, two := d.args[c.Index], c.Value, c.ValueTwo
	if narrow {
		arg, value, two = arg&0xffffffff, value&0xffffffff, two&0xffffffff
	}
	switch c.Op {
	case specs.OpEqualTo:
		return arg == value
	case specs.OpNotEqual:
		return arg != value
	case specs.OpLessThan:
		return arg < value
	case specs.OpLessEqual:
		return arg <= value
	case specs.OpGreaterThan:
		return arg > value
	case specs.OpGreaterEqual:
		return arg >= value
	}
	return arg&value == two&value
}

// alternative is a rule of the profile for one call, taken apart.
type alternative struct {
	ret   uint32
	conds []specs.LinuxSeccompArg
}

// oracle answers for a profile, read from the profile itself by the rules of the package comment.
type oracle struct {
	f         *family
	p         *specs.LinuxSeccomp
	byDefault uint32
	lists     []map[uint32][]alternative // by architecture and number; an entry without alternatives has a name but no rule
	newest    []int64
}

func newOracle(f *family, p *specs.LinuxSeccomp) *oracle {
	o := &oracle{f: f, p: p}
	o.byDefault, _ = action(p.DefaultAction, p.DefaultErrnoRet)
	for i, a := range f.archs {
		numbers, lists, newest := map[string]uint32{}, map[uint32][]alternative{}, int64(-1)
		for _, e := range f.table {
			if e.nr[i] != 0 {
				numbers[e.name] = e.nr[i] - 1
			}
		}
		for _, s := range p.Syscalls {
			ret, _ := action(s.Action, s.ErrnoRet)
			for _, name := range s.Names {
				nr, known := numbers[name]
				if known && nr < 0xf0000 {
					newest = max(newest, int64(nr))
				}
				if ret == o.byDefault {
					continue
				}
				if host, call := multiplexed(name); a.name == specs.ArchX86 && call != 0 && (len(s.Args) == 0 || s.Action != specs.ActAllow && s.Action != specs.ActLog) {
					lists[host] = append(lists[host], alternative{ret, []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: call}}})
				}
				if known {
					lists[nr] = append(lists[nr], alternatives(ret, s.Args)...)
				}
			}
		}
		o.lists, o.newest = append(o.lists, lists), append(o.newest, newest)
	}
	return o
}

func alternatives(ret uint32, conds []specs.LinuxSeccompArg) (list []alternative) {
	count := map[uint]bool{}
	for _, c := range conds {
		count[c.Index] = true
	}
	if len(count) == len(conds) {
		return []alternative{{ret, conds}}
	}
	for _, c := range conds {
		list = append(list, alternative{ret, []specs.LinuxSeccompArg{c}})
	}
	return list
}

// arch finds whose call it is; -1: of none that the profile lists.
func (o *oracle) arch(d *data) int {
	x32 := d.nr >= x32Offset && d.nr != 1<<32-1
	for i, a := range o.f.archs {
		if a.audit == d.arch && (a.audit != unix.AUDIT_ARCH_X86_64 || (a.name == specs.ArchX32) == x32) && (i == 0 || slices.Contains(o.p.Architectures, a.name)) {
			return i
		}
	}
	return -1
}

func (o *oracle) decide(d *data) uint32 {
	at := o.arch(d)
	if at < 0 {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	a := o.f.archs[at]
	nr := d.nr - a.offset
	list := o.lists[at][nr]
	for _, r := range list {
		if len(r.conds) == 0 {
			return r.ret
		}
	}
	for n := 6; n > 0; n-- {
		for _, r := range list {
			if len(r.conds) != n {
				continue
			}
			all := true
			for _, c := range r.conds {
				all = all && holds(c, d, a.narrow)
			}
			if all {
				return r.ret
			}
		}
	}
	lenient := o.p.DefaultAction == specs.ActAllow || o.p.DefaultAction == specs.ActLog || o.p.DefaultAction == specs.ActTrace
	if len(list) == 0 && !lenient && o.newest[at] >= 0 && int64(nr) > o.newest[at] {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return o.byDefault
}

// samples are arguments around the numbers that a profile compares with.
func samples(p *specs.LinuxSeccomp, random *rand.Rand) [][6]uint64 {
	values := []uint64{0, 1, 0xffffffff, 1 << 32, 1<<64 - 1}
	for _, s := range p.Syscalls {
		for _, c := range s.Args {
			values = append(values, c.Value, c.Value-1, c.Value+1, c.Value^1<<32, c.ValueTwo, c.Value&^c.ValueTwo)
		}
	}
	slices.Sort(values)
	values = slices.Compact(values)
	var list [][6]uint64
	for _, v := range values {
		list = append(list, [6]uint64{v, v, v, v, v, v})
	}
	for range 20 {
		var args [6]uint64
		for i := range args {
			args[i] = values[random.IntN(len(values))]
		}
		list = append(list, args)
	}
	return list
}

// numbersOf are all numbers of all architectures, and the borders of their ranges.
func numbersOf(f *family) []data {
	var list []data
	for _, a := range f.archs {
		for nr := range uint32(1030) {
			list = append(list, data{nr: nr + a.offset, arch: a.audit})
		}
		for _, nr := range []uint32{0x3ffffffe, 0x3fffffff, 0x7fffffff, 0x80000000, 1<<32 - 1, 0xeffff, 0xf0000, 0xf0001, 0xf0005, 0xf0006, 0xf0010, 0xf0100} {
			list = append(list, data{nr: nr, arch: a.audit}, data{nr: nr + a.offset, arch: a.audit})
		}
	}
	return append(list, data{nr: 0, arch: unix.AUDIT_ARCH_S390X}, data{nr: 1, arch: 0})
}

// asked are the numbers that rules with conditions are for: the others need no samples.
func asked(f *family, p *specs.LinuxSeccomp) map[uint32]bool {
	set := map[uint32]bool{102: true, 117: true}
	for _, s := range p.Syscalls {
		if len(s.Args) == 0 {
			continue
		}
		for _, name := range s.Names {
			if e := f.find(name); e != nil {
				for i, nr := range e.nr {
					if nr != 0 {
						set[nr-1+f.archs[i].offset] = true
					}
				}
			}
		}
	}
	return set
}

// compare holds the program against the profile.
func compare(t testing.TB, f *family, p *specs.LinuxSeccomp, prog []unix.SockFilter, random *rand.Rand) {
	t.Helper()
	all, few := samples(p, random), [][6]uint64{{}, {1, 2, 3, 4, 5, 6}}
	conditional := asked(f, p)
	o := newOracle(f, p)
	for _, d := range numbersOf(f) {
		list := few
		if conditional[d.nr] {
			list = all
		}
		for _, args := range list {
			d.args = args
			got, _ := run(t, prog, &d)
			if want := o.decide(&d); got != want {
				t.Fatalf("call %d (arch %#x) with %x: the program says %#x, the profile %#x", d.nr, d.arch, args, got, want)
			}
		}
	}
}
