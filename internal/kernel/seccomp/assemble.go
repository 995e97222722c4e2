package seccomp

import (
	"cmp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opRet  = unix.BPF_RET | unix.BPF_K
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opJeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opJgt  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
)

// span is a run of numbers, up to the next span, with the same answer: a return value, or the rules of one call.
type span struct {
	start  uint32
	ret    uint32
	rules  int32 // index plus one of the first node; 0: ret
	narrow bool
}

// assemble writes the program.
func (c *compiler) assemble() ([]unix.SockFilter, error) {
	p := make(program, 0, 1024)
	p.emit(opLoad, offArch)
	done := make([]bool, len(c.calls))
	for i, a := range c.calls {
		if !a.enabled || done[i] {
			continue
		}
		spans := c.spans(nil, a)
		for j, b := range c.calls {
			if j <= i || b.audit != a.audit {
				continue
			}
			// x32: more numbers of the same architecture.
			done[j] = true
			if b.enabled {
				spans = c.spans(spans, b)
			} else {
				spans = append(spans, span{start: b.offset, ret: unix.SECCOMP_RET_KILL_PROCESS})
			}
			// Number -1 is what a tracer puts to skip a call. It belongs to no x32.
			spans = append(spans, span{start: 1<<32 - 1, ret: c.beyond(a)})
		}
		at := p.emit(opJeq, a.audit)
		p.emit(opLoad, offNumber)
		c.tree(&p, spans)
		p.otherwise(at)
	}
	p.emit(opRet, unix.SECCOMP_RET_KILL_PROCESS)
	if len(p) > MaxInstructions {
		return nil, api.Errorf(api.InvalidArgument, "seccomp: the profile needs %d instructions, the kernel takes %d: fewer conditions on arguments make it smaller",
			len(p), MaxInstructions)
	}
	return p, nil
}

// beyond is the answer for calls newer than the profile.
func (c *compiler) beyond(a *calls) uint32 {
	if c.stub && a.newest >= 0 {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return c.byDefault
}

// spans appends what an architecture's numbers lead to.
func (c *compiler) spans(list []span, a *calls) []span {
	if list == nil {
		list = make([]span, 0, 256)
	}
	for slot := range slots {
		s := span{start: a.number(slot), ret: c.byDefault, narrow: a.narrow}
		if slot > a.newest {
			s.ret = c.beyond(a)
		}
		if first := a.first[slot]; first != 0 {
			s.rules = first
			for n := first; n != 0; n = c.nodes[n-1].next {
				if r := &c.rules[c.nodes[n-1].rule]; len(r.conds) == 0 {
					s.rules, s.ret = 0, r.ret
					break
				}
			}
		}
		if n := len(list); slot > 0 && list[n-1].rules == 0 && s.rules == 0 && list[n-1].ret == s.ret {
			continue
		}
		list = append(list, s)
	}
	return list
}

// tree writes a binary search for the number in the accumulator.
func (c *compiler) tree(p *program, spans []span) {
	if len(spans) == 1 {
		c.leaf(p, spans[0])
		return
	}
	mid := len(spans) / 2
	at := p.emit(opJge, spans[mid].start)
	c.tree(p, spans[:mid])
	p.onlyIf(at)
	c.tree(p, spans[mid:])
}

// leaf writes the answer for a span.
func (c *compiler) leaf(p *program, s span) {
	if s.rules != 0 {
		var list []*rule
		for n := s.rules; n != 0; n = c.nodes[n-1].next {
			list = append(list, &c.rules[c.nodes[n-1].rule])
		}
		slices.SortStableFunc(list, func(a, b *rule) int { return cmp.Compare(len(b.conds), len(a.conds)) })
		for len(list) > 0 {
			n := same(list, s.narrow)
			if n > 1 {
				p.oneOf(list[:n], s.narrow)
			} else {
				p.rule(list[0], s.narrow)
			}
			list = list[n:]
		}
		s.ret = c.byDefault
	}
	p.emit(opRet, s.ret)
}

// same counts the rules at the head of the list that compare one argument with one small number each, for the same answer.
func same(list []*rule, narrow bool) int {
	const most = 200 // jumps reach 255 instructions
	head := list[0]
	n := 0
	for n < len(list) && n < most {
		r := list[n]
		if len(r.conds) != 1 || r.conds[0].Op != specs.OpEqualTo || r.ret != head.ret || r.conds[0].Index != head.conds[0].Index ||
			!narrow && r.conds[0].Value>>32 != 0 {
			break
		}
		n++
	}
	return max(n, 1)
}

// program is what is written so far. Jumps go forward and are filled in when their goal is reached.
type program []unix.SockFilter

func (p *program) emit(code uint16, k uint32) int {
	*p = append(*p, unix.SockFilter{Code: code, K: k})
	return len(*p) - 1
}

// otherwise makes the instruction at fall through when it holds, and go to the end of what is written when it does not.
func (p *program) otherwise(at int) {
	if n := len(*p) - at - 1; n <= 255 {
		(*p)[at].Jf = uint8(n)
	} else {
		(*p)[at].Jt = 1
		*p = slices.Insert(*p, at+1, unix.SockFilter{Code: opJump, K: uint32(n)})
	}
}

// onlyIf is the reverse: when it holds, to the end.
func (p *program) onlyIf(at int) {
	if n := len(*p) - at - 1; n <= 255 {
		(*p)[at].Jt = uint8(n)
	} else {
		(*p)[at].Jf = 1
		*p = slices.Insert(*p, at+1, unix.SockFilter{Code: opJump, K: uint32(n)})
	}
}

// load puts half of an argument into the accumulator; little endian, as both families are.
func (p *program) load(arg uint, high bool) {
	off := uint32(offArgs + 8*arg)
	if high {
		off += 4
	}
	p.emit(opLoad, off)
}

// oneOf writes rules that compare an argument with several numbers: it is loaded once.
func (p *program) oneOf(list []*rule, narrow bool) {
	arg := list[0].conds[0].Index
	wide := -1
	if !narrow {
		p.load(arg, true)
		wide = p.emit(opJeq, 0)
	}
	p.load(arg, false)
	var hits []int
	for _, r := range list {
		hits = append(hits, p.emit(opJeq, uint32(r.conds[0].Value)))
	}
	last := hits[len(hits)-1]
	for _, at := range hits[:len(hits)-1] {
		(*p)[at].Jt = uint8(last - at)
	}
	p.emit(opRet, list[0].ret)
	p.otherwise(last)
	if wide >= 0 {
		p.otherwise(wide)
	}
}

// rule writes one rule: when all its conditions hold, its answer.
func (p *program) rule(r *rule, narrow bool) {
	var fails []branch
	for _, cond := range r.conds {
		fails = append(fails, p.condition(cond, narrow)...)
	}
	p.emit(opRet, r.ret)
	p.patch(fails)
}

// branch is one way out of a jump that is not filled in yet.
type branch struct {
	at    int
	holds bool // the way taken when the comparison holds
}

// patch leads branches to the end of what is written: a rule of six conditions is shorter than a jump reaches.
func (p *program) patch(list []branch) {
	for _, b := range list {
		n := uint8(len(*p) - b.at - 1)
		if b.holds {
			(*p)[b.at].Jt = n
		} else {
			(*p)[b.at].Jf = n
		}
	}
}

// condition writes a comparison that falls through when it holds and returns the branches for when it does not. A 64-bit argument is
// compared by halves. With a 32-bit architecture the low half counts alone.
func (p *program) condition(a specs.LinuxSeccompArg, narrow bool) (fails []branch) {
	high, low := uint32(a.Value>>32), uint32(a.Value)
	var holds []branch
	switch a.Op {
	case specs.OpMaskedEqual:
		for _, half := range [...]struct {
			high       bool
			mask, want uint32
		}{{true, high, uint32(a.ValueTwo>>32) & high}, {false, low, uint32(a.ValueTwo) & low}} {
			if half.high && (narrow || half.mask == 0) {
				continue
			}
			p.load(a.Index, half.high)
			if half.mask != 1<<32-1 {
				p.emit(opAnd, half.mask)
			}
			fails = append(fails, branch{p.emit(opJeq, half.want), false})
		}
		return fails
	case specs.OpEqualTo, specs.OpNotEqual:
		if !narrow {
			p.load(a.Index, true)
			at := branch{p.emit(opJeq, high), false}
			if a.Op == specs.OpEqualTo {
				fails = append(fails, at)
			} else {
				holds = append(holds, at)
			}
		}
		p.load(a.Index, false)
		fails = append(fails, branch{p.emit(opJeq, low), a.Op == specs.OpNotEqual})
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		if !narrow {
			p.load(a.Index, true)
			holds = append(holds, branch{p.emit(opJgt, high), true})
			fails = append(fails, branch{p.emit(opJeq, high), false})
		}
		p.load(a.Index, false)
		op := uint16(opJgt)
		if a.Op == specs.OpGreaterEqual {
			op = opJge
		}
		fails = append(fails, branch{p.emit(op, low), false})
	case specs.OpLessThan, specs.OpLessEqual:
		if !narrow {
			p.load(a.Index, true)
			fails = append(fails, branch{p.emit(opJgt, high), true})
			holds = append(holds, branch{p.emit(opJeq, high), false})
		}
		p.load(a.Index, false)
		op := uint16(opJge)
		if a.Op == specs.OpLessEqual {
			op = opJgt
		}
		fails = append(fails, branch{p.emit(op, low), true})
	}
	p.patch(holds)
	return fails
}
