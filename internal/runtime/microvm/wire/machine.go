package wire

// Machine is what the driver tells the monitor of the machine to make. Paths are those in the box.
type Machine struct {
	QEMU, VirtioFS string // programs
	Kernel, Guest  string // the guest's kernel, and the agent
	Tree           string // the folder that becomes the container's root
	Memory         int64  // bytes
	CPUs           int
	Accel          string // AccelKVM or AccelTCG
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
// JSON. One that can be a machine's it writes to KernelOutFD, as the ELF file that QEMU starts.
const ArgKernel = "kernel"

// Descriptors of ArgKernel. The configuration may be empty.
const (
	KernelConfigFD = 3
	KernelOutFD    = 4
)
