package api

// VMKernel is a kernel that virtual machines could have.
type VMKernel struct {
	Path    string `json:"path"`
	Source  string `json:"source"`  // BRIG_VM_KERNEL, store, brig (one that came with it), or host
	Version string `json:"version"` // as uname -r says it; empty: it is not known
	Used    bool   `json:"used"`
	Trouble string `json:"trouble,omitempty"` // why it cannot be a machine's
}

// VMKernelSource is where a kernel for virtual machines comes from: a file, or a package of the distribution's.
type VMKernelSource struct {
	File    string // an ELF file or a bzImage
	Config  string // a file that says what it was built with; empty: itself, or the one beside it
	Modules string // a folder that has a folder of modules for each version; empty: /lib/modules
	Package string // which has all of them
}
