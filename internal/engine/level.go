package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/runtime"
	"brig/internal/runtime/boxed"
	"brig/internal/runtime/microvm"
)

// level is one level of isolation.
type level struct {
	name    api.Isolation
	boxed   boxed.Level   // nil: it is built of what package ns has
	usable  func() error  // why it cannot be used on this machine; nil: it can
	detail  func() string // what else there is to know of it here; nil: nothing
	refuses []refusal
	implies func(*api.ContainerSpec) // enters what the level means for the rest of a spec; nil: nothing
}

// refusal is something that a level cannot do. The table of them in doc/isolation.md is made from these.
type refusal struct {
	What  string // as the user asks for it: flags
	Why   string
	asked func(*api.ContainerSpec) bool
}

// levels are all levels, weakest first.
func (e *Engine) levels() []level {
	vm := e.vm()
	return []level{
		chroot(),
		{name: api.IsolationContainer, usable: func() error { return nil }},
		e.gvisor(),
		{name: api.IsolationVM, boxed: vm, usable: vm.Usable, refuses: append(boxRefuses(), machineRefuses()...)},
	}
}

// kernelVar names a kernel for virtual machines that goes before the store's.
const kernelVar = "BRIG_VM_KERNEL"

// templateVar is "off" where no virtual machine is to start from a saved one.
const templateVar = "BRIG_VM_TEMPLATE"

// vm is level vm with the programs and kernels of this host.
func (e *Engine) vm() *microvm.Level {
	l := &microvm.Level{
		Monitor: sibling("brig-vm"), Guest: sibling("brig-guest"), Cache: filepath.Join(e.state, "vm", "accelerator"),
		Kernels: []string{e.vmKernel(), sibling("vm-kernel")},
	}
	if k := os.Getenv(kernelVar); k != "" {
		l.Kernels = []string{k}
	}
	l.Templates, l.Runtime = filepath.Join(e.root, "vm", "templates"), sibling("brig-oci")
	l.FromNothing = os.Getenv(templateVar) == "off"
	return l
}

// level is the level of that name. No name is level container's.
func (e *Engine) level(name api.Isolation) (level, error) {
	if name == "" {
		name = api.IsolationContainer
	}
	for _, l := range e.levels() {
		if l.name == name {
			return l, nil
		}
	}
	return level{}, api.Errorf(api.InvalidArgument, "isolation level %q is unknown: use chroot, container, gvisor or vm", name)
}

// driverOf is the driver of a container's level.
func (e *Engine) driverOf(c *api.Container) runtime.Driver {
	if rootIn(c.Spec.Isolation) == "" { // the usual case, which needs no table
		return e.driver
	}
	if l, err := e.level(c.Spec.Isolation); err == nil && l.boxed != nil {
		return &boxed.Driver{NS: *e.driver, Level: l.boxed}
	}
	return e.driver
}

// rootIn is the folder, in the root of a container's first process, that is the container's root; empty where it is the root itself.
func rootIn(level api.Isolation) string {
	switch level {
	case api.IsolationGVisor, api.IsolationVM:
		return boxed.RootPath[1:]
	}
	return ""
}

// fixedNetwork refuses to change the networks of a container that runs where its level took the interfaces over when it started.
func (e *Engine) fixedNetwork(c *api.Container) error {
	if rootIn(c.Spec.Isolation) != "" && e.isRunning(c.ID) {
		return api.Errorf(api.Unsupported, "container %s runs at isolation level %s, whose network stack took its interfaces over when it started: stop it first", c.Name, c.Spec.Isolation)
	}
	return nil
}

// checkLevel refuses what a spec's level cannot do, by name, and enters what the level means for the rest of it.
func (e *Engine) checkLevel(s *api.ContainerSpec) error {
	if s.Isolation == "" || s.Isolation == api.IsolationContainer {
		return nil
	}
	l, err := e.level(s.Isolation)
	if err != nil {
		return err
	}
	if err := l.usable(); err != nil {
		return api.Errorf(api.KindOf(err), "isolation level %s cannot be used here: %w", l.name, err)
	}
	users := e.outOfPod(s)
	for _, r := range l.refuses {
		if r.asked(users) {
			return api.Errorf(api.Unsupported, "isolation level %s does not know %s: %s", l.name, r.What, r.Why)
		}
	}
	if l.implies != nil {
		l.implies(s)
	}
	return nil
}

// fixedLive refuses what cannot be changed of a container while it runs at its level. what is as the user asks for it.
func (e *Engine) fixedLive(c *api.Container, what string) error {
	if c.Spec.Isolation != api.IsolationVM || !e.isRunning(c.ID) {
		return nil
	}
	return api.Errorf(api.Unsupported, "container %s: %s of a virtual machine that runs cannot be changed: stop it first", c.Name, what)
}

// levelStates says of every level whether it can be used here.
func (e *Engine) levelStates() []api.IsolationState {
	var list []api.IsolationState
	for _, l := range e.levels() {
		s := api.IsolationState{Level: l.name, Available: true}
		if err := l.usable(); err != nil {
			s.Available, s.Reason = false, err.Error()
		} else if l.detail != nil {
			s.Detail = l.detail()
		}
		list = append(list, s)
	}
	return list
}

// boxRefuses is what no level can do whose boundary is a program.
func boxRefuses() []refusal {
	shared := func(namespace string) bool {
		switch namespace {
		case "", api.NamespacePrivate, api.NamespaceShareable, api.NamespaceNone:
			return false
		}
		return true
	}
	return []refusal{
		{
			"a normal user's containers", "the program that is the boundary needs root's rights to be locked in",
			func(*api.ContainerSpec) bool { return rootless.Active() },
		},
		{
			"--network host and the network of another", "it has a network stack of its own",
			func(s *api.ContainerSpec) bool {
				n := s.Network.Mode
				return n == api.NamespaceHost || strings.HasPrefix(n, api.NamespaceContainer) || strings.HasPrefix(n, api.NamespacePath)
			},
		},
		{
			"--pid, --ipc, --uts and --cgroupns of the host or of others", "it has a kernel of its own",
			func(s *api.ContainerSpec) bool {
				return slices.ContainsFunc([]string{s.Namespaces.PID, s.Namespaces.IPC, s.Namespaces.UTS, s.Namespaces.CgroupNS}, shared)
			},
		},
		{
			"--privileged and --security-opt nesting", "the host's devices and kernel are not there to have",
			func(s *api.ContainerSpec) bool { return s.Privileged || isNesting(s) },
		},
		{"--device", "the host's devices are not there to have", func(s *api.ContainerSpec) bool { return len(s.Devices) > 0 }},
		{
			"--userns other than host, --uidmap and --gidmap", "its users are not the host's",
			func(s *api.ContainerSpec) bool { return s.UserNS.Mode != "" && s.UserNS.Mode != api.NamespaceHost },
		},
	}
}
