// Package microvm is isolation level vm: each container is a virtual machine with a kernel of its own. It is a level of package boxed: the monitor that runs the machine
// (command brig-vm) is the first process of a box, and the agent that is the machine's first program (command brig-guest) builds the container in it.
//
// This package says what is needed on the host, how large a machine is, and what its box may do. It is linked into the lean brig: what is heavy is in the programs.
package microvm

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/record"
	"brig/internal/kernel/proc"
	"brig/internal/runtime/boxed"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/runtime/oci"
)

// Level is the level on one host.
type Level struct {
	Monitor, Guest string   // the programs brig-vm and brig-guest
	Kernels        []string // where a guest's kernel may be, the first that is there is taken
	Cache          string   // a file that lives as long as the boot, for what was found out about KVM
	Templates      string   // a folder, on a disk where there is one, for machines that others start from
	FromNothing    bool     // each is to start from nothing
	Runtime        string   // the program brig-oci
}

var (
	_ boxed.Level  = (*Level)(nil)
	_ boxed.Sized  = (*Level)(nil)
	_ boxed.Teller = (*Level)(nil)
	_ boxed.Keeper = (*Level)(nil)
)

// Sizes, in bytes.
const (
	DefaultMemory = 512 << 20 // of a machine whose container has no limit
	PodMemory     = 1 << 30   // of one that is a pod and has no limit
	MinMemory     = 96 << 20  // under which a machine's kernel and agent leave nothing for a container
	// Overhead is what the box may use beside the machine's memory: QEMU with what it translates, virtiofsd, and the host's cache of the files that it reads.
	Overhead = 256 << 20
)

// boxPids bounds the threads in a box. Those in the machine are not among them.
const boxPids = 4096

// Name is the level's name.
func (*Level) Name() string { return string(api.IsolationVM) }

// Tells says that the agent tells the processes inside.
func (*Level) Tells() {}

// Keeps says that the guest's kernel keeps names and attributes of files for a second.
func (*Level) Keeps() {}

// Program is the monitor.
func (l *Level) Program() string { return l.Monitor }

// needs are the host's files that a machine is made with.
type needs struct{ qemu, virtiofsd, kernel string }

// Usable reports why there can be no virtual machine here; nil: there can be.
func (l *Level) Usable() error {
	_, err := l.find()
	return err
}

func (l *Level) find() (n needs, err error) {
	if goruntime.GOARCH != "amd64" {
		return n, api.Errorf(api.Unsupported, "virtual machines are built for amd64 only")
	}
	n.qemu = first("/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm")
	n.virtiofsd = first("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")
	n.kernel = first(l.Kernels...)
	switch {
	case n.qemu == "":
		return n, api.Errorf(api.Unavailable, "QEMU is not installed: Debian's package qemu-system-x86 has it")
	case n.virtiofsd == "":
		return n, api.Errorf(api.Unavailable, "virtiofsd is not installed: Debian's package qemu-system-common or virtiofsd has it")
	case n.kernel == "":
		return n, api.Errorf(api.Unavailable, "there is no kernel for virtual machines at %s: `brig vm kernel install --package linux-image-cloud-amd64` takes Debian's, `make guest-kernel` builds one that starts in half the time", strings.Join(l.Kernels, " or "))
	}
	for _, program := range []string{l.Monitor, l.Guest} {
		if first(program) == "" {
			return n, api.Errorf(api.Unavailable, "%s is not there: it is one of Brig's programs", program)
		}
	}
	return n, nil
}

// first is the first of paths that is a file.
func first(paths ...string) string {
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p
		}
	}
	return ""
}

// Places in the box.
const (
	guestPath  = "/box/guest"
	kernelPath = "/box/kernel"
)

// Box completes the box of a machine.
func (l *Level) Box(user, box *specs.Spec) error {
	n, err := l.find()
	if err != nil {
		return err
	}
	if err := unshared(user.Mounts); err != nil {
		return err
	}
	pod, err := boxed.PodOf(user)
	if err != nil {
		return err
	}
	if pod != nil && pod.Member != "" {
		return member(box, pod)
	}
	m := wire.Machine{
		QEMU: n.qemu, VirtioFS: n.virtiofsd, Kernel: kernelPath, Guest: guestPath, Tree: boxed.RootPath,
		Memory: DefaultMemory, CPUs: cpus(user.Linux.Resources), Accel: l.accel(),
	}
	if pod != nil {
		m.Memory = PodMemory
		membersPlace(box, pod)
	}
	if err := limits(user, box, &m); err != nil {
		return err
	}
	l.fromTemplate(box, &n, &m)
	settings, err := record.Marshal(m)
	if err != nil {
		return err
	}
	box.Process.Env = append(box.Process.Env, wire.MachineVar+"="+string(settings))
	box.Process.Capabilities = &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	box.Mounts = append(l.programs(&n), box.Mounts...)
	mode := os.FileMode(0o600)
	box.Linux.Devices = append(box.Linux.Devices, specs.LinuxDevice{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode})
	if m.Accel == wire.AccelKVM {
		all := os.FileMode(0o666) // QEMU is not root
		box.Linux.Devices = append(box.Linux.Devices, specs.LinuxDevice{Path: kvmPath, Type: "c", Major: 10, Minor: 232, FileMode: &all})
	}
	box.Linux.Seccomp = filter()
	box.Annotations[oci.AnnotationTells] = "1"
	return nil
}

// readOnly are the options of what a box has of the host's.
var readOnly = []string{"bind", "ro", "nosuid", "nodev", "rprivate"}

// programs are the host's files that a machine is made with, where they are in a box.
func (l *Level) programs(n *needs) (list []specs.Mount) {
	for _, b := range [...][2]string{{l.Guest, guestPath}, {n.kernel, kernelPath}, {"/usr", "/usr"}, {"/lib", "/lib"}, {"/lib64", "/lib64"}, {"/etc/ld.so.cache", "/etc/ld.so.cache"}} {
		if _, err := os.Stat(b[0]); err == nil {
			list = append(list, specs.Mount{Type: "bind", Source: b[0], Destination: b[1], Options: readOnly})
		}
	}
	return list
}

// capabilities are those of the monitor until the machine runs, and of virtiofsd, which acts for the users of the container on the files of the container.
var capabilities = []string{
	"CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_CHROOT", "CAP_KILL",
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP",
}

// unshared refuses what cannot be shared with another kernel.
func unshared(mounts []specs.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		info, err := os.Stat(m.Source)
		if err == nil && info.Mode()&(os.ModeSocket|os.ModeNamedPipe|os.ModeDevice) != 0 {
			return api.Errorf(api.Unsupported, "mount %s: %s is a socket, a pipe or a device, which cannot be shared with a virtual machine: only files and folders can", m.Destination, m.Source)
		}
	}
	return nil
}

// limits sets the size of the machine, and that of its box around it.
func limits(user, box *specs.Spec, m *wire.Machine) error {
	r := specs.LinuxResources{}
	if user.Linux.Resources != nil {
		r = *user.Linux.Resources
	}
	memory := specs.LinuxMemory{}
	if r.Memory != nil {
		memory = *r.Memory
	}
	if memory.Limit != nil && *memory.Limit > 0 {
		m.Memory = *memory.Limit
	}
	if m.Memory < MinMemory {
		return api.Errorf(api.InvalidArgument, "memory limit of %d bytes: a virtual machine, with a kernel of its own, needs %d MiB at least", m.Memory, MinMemory>>20)
	}
	whole := m.Memory + Overhead
	if memory.Limit = &whole; memory.Swap != nil && *memory.Swap > 0 {
		swap := *memory.Swap + Overhead
		memory.Swap = &swap
	}
	pids := int64(boxPids)
	r.Memory, r.Pids = &memory, &specs.LinuxPids{Limit: &pids}
	r.Devices = slices.Clone(r.Devices)
	for _, minor := range []int64{200, 232} { // tun, kvm
		major, minor := int64(10), minor
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"})
	}
	box.Linux.Resources = &r
	return nil
}

// OfBox leaves out what a machine has been given at its start.
func (*Level) OfBox(r *specs.LinuxResources) *specs.LinuxResources {
	rest := *r
	rest.Memory, rest.Pids = nil, nil
	return &rest
}

// cpus is how many processors a machine has: as many as its share of the host's needs, and one where there is no limit: each more lengthens the start.
func cpus(r *specs.LinuxResources) int {
	if r != nil && r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil && *r.CPU.Quota > 0 && *r.CPU.Period > 0 {
		n := (*r.CPU.Quota + int64(*r.CPU.Period) - 1) / int64(*r.CPU.Period)
		return int(min(max(n, 1), 64))
	}
	return min(2, goruntime.NumCPU())
}

// filter refuses what nothing in a box needs, but what is named, and an escape would. QEMU and virtiofsd each have a narrower one of their own.
func filter(but ...string) *specs.LinuxSeccomp {
	errno := uint(1) // EPERM
	names := slices.DeleteFunc([]string{
		"acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "delete_module", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module", "io_uring_enter",
		"io_uring_register", "io_uring_setup", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount", "mount_setattr", "move_mount", "nfsservctl", "open_by_handle_at",
		"open_tree", "perf_event_open", "pivot_root", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "quotactl_fd", "reboot", "request_key", "setdomainname",
		"sethostname", "setns", "settimeofday", "swapoff", "swapon", "syslog", "umount2", "userfaultfd", "vhangup",
	}, func(name string) bool { return slices.Contains(but, name) })
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls:      []specs.LinuxSyscall{{Action: specs.ActErrno, ErrnoRet: &errno, Names: names}},
	}
}

const kvmPath = "/dev/kvm"

// patience is how long the probe of KVM may take: many times what a processor needs.
const patience = 2 * time.Second

// accel is what runs machines here. It is found out once a boot: that there is a /dev/kvm says little.
func (l *Level) accel() string {
	if _, err := os.Stat(kvmPath); err != nil {
		return wire.AccelTCG
	}
	boot := proc.BootID()
	if b, err := os.ReadFile(l.Cache); err == nil {
		if known, ok := strings.CutPrefix(strings.TrimSpace(string(b)), boot+" "); ok && (known == wire.AccelKVM || known == wire.AccelTCG) {
			return known
		}
	}
	found := wire.AccelTCG
	if runsIn(patience, l.Monitor, wire.ArgProbe) {
		found = wire.AccelKVM
	}
	if os.MkdirAll(filepath.Dir(l.Cache), 0o700) == nil {
		_ = atomicfile.Write(l.Cache, []byte(boot+" "+found+"\n"), 0o600, atomicfile.Volatile) // else the next one finds it out
	}
	return found
}

// runsIn reports whether a program ends well in time. It is killed when it does not.
func runsIn(limit time.Duration, program string, args ...string) bool {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer null.Close()
	p, err := os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{Files: []*os.File{null, null, null}})
	if err != nil {
		return false
	}
	late := time.AfterFunc(limit, func() { p.Kill() })
	defer late.Stop()
	state, err := p.Wait()
	return err == nil && state.Success()
}
