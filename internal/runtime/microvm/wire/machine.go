package wire

import (
	"strconv"
	"strings"
)

// Machine is what the driver tells the monitor of the machine to make. Paths are those in the box.
type Machine struct {
	QEMU, VirtioFS string // programs
	Kernel, Guest  string // the guest's kernel, and the agent
	Tree           string // the folder that becomes the container's root
	Memory         int64  // bytes
	CPUs           int
	Accel          string // AccelKVM or AccelTCG
	Template       string `json:",omitempty"` // the folder of the template to start from, or (ArgSave) to make; none: there is to be none
	Damaged        bool   `json:",omitempty"` // it was, and is made anew
	Rehearsal      []byte `json:",omitempty"` // (ArgSave) the configuration of a container that is nobody's
}

// MachineVar is the environment variable with the Machine, as JSON.
const MachineVar = "BRIG_VM"

// What QEMU can run a guest by: the processor itself, or an emulator.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// ArgProbe has the monitor's program run a small guest on /dev/kvm and end well when that is done. Whoever asks sets the deadline: some hosts have a KVM that is only
// an emulation, on which a kernel takes minutes to start, and some hang.
const ArgProbe = "probe"

// ArgKernel has the monitor's program read a kernel from its standard input, and its configuration from KernelConfigFD, and say on its standard output what it is: a kernel.Kernel as
// JSON. One that can be a machine's it writes to KernelOutFD, as the file that a machine's monitor takes.
const ArgKernel = "kernel"

// ModulesVar is the environment variable of ArgKernel with the folder that has a folder of modules for each version. Without it: /lib/modules.
const ModulesVar = "BRIG_VM_MODULES"

// LookVar is the environment variable of ArgKernel that, when it is set, has the kernel looked at, and not unpacked where its configuration is known.
const LookVar = "BRIG_VM_LOOK"

// Descriptors of ArgKernel. The configuration may be empty.
const (
	KernelConfigFD = 3
	KernelOutFD    = 4
)

// What the driver has the monitor's program do, outside of any box, where there is no template for a kind of machine: make it, in a box of its own, in which the program
// is executed with ArgSave. JobVar is the environment variable with the Job, as JSON.
const (
	ArgTemplate = "template"
	ArgSave     = "save"
	JobVar      = "BRIG_VM_JOB"
)

// ArgRehearse has the agent's program do, as that of a container which is nobody's, what programs begin with.
const ArgRehearse = "rehearse"

// BriefPath is a file that, where it is in the container's tree, has ArgRehearse do nothing.
const BriefPath = "/brief"

// Job is a template to be made.
type Job struct {
	Dir, Name string // the folder of templates, and the one to be made in it
	Runtime   string // brig-oci
	Config    []byte // of the box, which is made in New(Name) of Dir
}

// Names in the folder of templates.
const (
	LockName   = "lock"    // held by who makes one
	newPrefix  = ".new-"   // of the folder that one is made in
	OutDir     = "out"     // in there, what becomes the template
	failSuffix = ".failed" // of the file that says why one cannot be made
)

// New is the folder in which a template is made, and Reason the file that says why it cannot be.
func New(name string) string    { return newPrefix + name }
func Reason(name string) string { return name + failSuffix }

// ModulesDir is the folder of a machine's initial ramdisk with modules of its kernel, whose names have the order in which they are to be loaded.
const ModulesDir = "modules"

// OldestKernel is the first version of Linux that decides by itself who may make a set-group-ID file in a folder of its group: in a machine the server of its files does what the kernel has allowed.
const OldestKernel = "6.0"

// TooOld says whether a kernel with that version, as uname -r says it, is older than OldestKernel.
func TooOld(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	return err == nil && n < 6
}
