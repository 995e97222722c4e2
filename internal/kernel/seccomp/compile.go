package seccomp

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A call has a slot in an array by number. ARM's private calls, which begin at 0xf0000, have the last slots.
const (
	slots        = 1024
	privateSlots = 16
	firstPrivate = 0xf0000
)

// node puts a rule in the list of a slot.
type node struct {
	rule int32
	next int32 // index plus one of the next node; 0 ends
}

// rule is what a profile says about a call.
type rule struct {
	ret   uint32
	conds []specs.LinuxSeccompArg
}

// calls are the rules of one architecture.
type calls struct {
	arch
	enabled bool
	newest  int // highest number that the profile names; -1: none
	first   [slots]int32
	last    [slots]int32
}

// compiler holds a profile in between.
type compiler struct {
	family
	byDefault uint32
	stub      bool // ENOSYS for calls newer than the profile
	notify    bool
	rules     []rule
	nodes     []node
	calls     []*calls
}

// Compile makes the program of a profile for this machine's architecture and those of the profile that its kernel can run. A profile that
// is no profile is api.InvalidArgument.
func Compile(s *specs.LinuxSeccomp) (*Filter, error) {
	switch runtime.GOARCH { // a constant: the linker leaves the table of the other out
	case "amd64":
		return amd64().compile(s)
	case "arm64":
		return arm64().compile(s)
	}
	return nil, noTable(runtime.GOARCH)
}

// CompileFor is Compile for another architecture, by Go's name, for programs that are made ahead of time.
func CompileFor(goarch string, s *specs.LinuxSeccomp) (*Filter, error) {
	f, err := familyOf(goarch)
	if err != nil {
		return nil, err
	}
	return f.compile(s)
}

func (f family) compile(s *specs.LinuxSeccomp) (*Filter, error) {
	flags, err := flags(s.Flags)
	if err != nil {
		return nil, err
	}
	c := &compiler{family: f}
	if c.byDefault, err = action(s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return nil, err
	}
	switch s.DefaultAction {
	case specs.ActNotify:
		return nil, errNotifyAll()
	case specs.ActAllow, specs.ActLog, specs.ActTrace: // a tracer may emulate calls that are newer than it
	default:
		c.stub = true
	}
	if err := c.architectures(s.Architectures); err != nil {
		return nil, err
	}
	c.nodes = make([]node, 0, 1536)
	c.rules = make([]rule, 0, 2*len(s.Syscalls))
	for i := range s.Syscalls {
		if err := c.add(&s.Syscalls[i]); err != nil {
			return nil, err
		}
	}
	prog, err := c.assemble()
	if err != nil {
		return nil, err
	}
	flags = withListener(flags, c.notify)
	return &Filter{Prog: prog, Flags: flags, Notify: c.notify}, nil
}

// architectures enables the native one and those of the list that its kernel runs. Others need no code: nothing here can be of theirs.
func (c *compiler) architectures(list []specs.Arch) error {
	for i, a := range c.archs {
		c.calls = append(c.calls, &calls{arch: a, enabled: i == 0 || slices.Contains(list, a.name), newest: -1})
	}
	for _, a := range list {
		if err := checkArch(a); err != nil {
			return err
		}
	}
	return nil
}

// add takes in one entry of the profile's list.
func (c *compiler) add(s *specs.LinuxSyscall) error {
	ret, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	first := len(c.rules)
	if ret != c.byDefault {
		if err := c.addRules(ret, s.Args); err != nil {
			return err
		}
	}
	end := len(c.rules) // multiplex adds rules of its own
	for _, name := range s.Names {
		if s.Action == specs.ActNotify {
			if name == "write" {
				return errNotifyWrite()
			}
			c.notify = true
		}
		e := c.find(name)
		for i, a := range c.calls {
			if e == nil || !a.enabled || e.nr[i] == 0 {
				continue
			}
			nr := e.nr[i] - 1
			if nr < firstPrivate {
				a.newest = max(a.newest, int(nr))
			}
			for r := first; r < end; r++ {
				c.link(a, nr, r)
			}
		}
		if ret != c.byDefault && len(c.calls) > 1 && c.calls[1].enabled && c.calls[1].name == specs.ArchX86 {
			c.multiplex(name, ret, len(s.Args) > 0)
		}
	}
	return nil
}

// addRules turns conditions into one rule, or into a rule each where an argument comes twice.
func (c *compiler) addRules(ret uint32, conds []specs.LinuxSeccompArg) error {
	twice, err := checkArgs(conds)
	if err != nil {
		return err
	}
	if !twice {
		c.rules = append(c.rules, rule{ret, conds})
		return nil
	}
	for i := range conds {
		c.rules = append(c.rules, rule{ret, conds[i : i+1]})
	}
	return nil
}

// link puts a rule behind the others of a call.
func (c *compiler) link(a *calls, nr uint32, r int) {
	slot := nr
	if nr >= firstPrivate {
		slot = slots - privateSlots + nr - firstPrivate
	}
	c.nodes = append(c.nodes, node{rule: int32(r)})
	n := int32(len(c.nodes))
	if a.first[slot] == 0 {
		a.first[slot] = n
	} else {
		c.nodes[a.last[slot]-1].next = n
	}
	a.last[slot] = n
}

// number is the way back from a slot.
func (a *calls) number(slot int) uint32 {
	if slot >= slots-privateSlots {
		return firstPrivate + uint32(slot-(slots-privateSlots)) + a.offset
	}
	return uint32(slot) + a.offset
}

// multiplex carries a rule over to 386's socketcall and ipc, whose first argument says which call is meant and whose others stand in
// memory, out of the filter's sight: what allows only some arguments cannot be carried over, what refuses some refuses all.
func (c *compiler) multiplex(name string, ret uint32, conditional bool) {
	host, call := multiplexed(name)
	if call == 0 || conditional && (ret == unix.SECCOMP_RET_ALLOW || ret == unix.SECCOMP_RET_LOG) {
		return
	}
	c.rules = append(c.rules, rule{ret, []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: call}}})
	c.link(c.calls[1], host, len(c.rules)-1)
}

// multiplexed gives the number of the 386 call that carries another, and which call of it that is (linux/net.h, linux/ipc.h); 0: none.
func multiplexed(name string) (host uint32, call uint64) {
	const socketcall, ipc = 102, 117
	for i, s := range [...]string{"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
		"sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg"} {
		if s == name {
			return socketcall, uint64(i + 1)
		}
	}
	switch name {
	case "semop":
		return ipc, 1
	case "semget":
		return ipc, 2
	case "semctl":
		return ipc, 3
	case "semtimedop":
		return ipc, 4
	case "msgsnd":
		return ipc, 11
	case "msgrcv":
		return ipc, 12
	case "msgget":
		return ipc, 13
	case "msgctl":
		return ipc, 14
	case "shmat":
		return ipc, 21
	case "shmdt":
		return ipc, 22
	case "shmget":
		return ipc, 23
	case "shmctl":
		return ipc, 24
	}
	return 0, 0
}
