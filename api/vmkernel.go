package api

// VMKernel is a kernel that virtual machines could have.
type VMKernel struct {
	Path    string `json:"path"`
	Source  string `json:"source"`  // BRIG_VM_KERNEL, store, brig (one that came with it), or host
	Version string `json:"version"` // as uname -r says it; empty: it is not known
	Used    bool   `json:"used"`
	Trouble string `json:"trouble,omitempty"` // why it cannot be a machine's
}
