//go:build !brig_weaken

package weak

// Every defence is there.
const (
	Links       = false // a path in the root is resolved by name, through links, from the thread's own root
	Places      = false // a mount over /proc, and /proc, /sys or /dev as a link, is taken
	Mask        = false // files are masked with what the image has at /dev/null
	Procfs      = false // whatever is at /proc is written to
	Crossing    = false // sysctls are written through what is mounted inside of the container's /proc
	FDs         = false // descriptors that the process is not to inherit stay open
	Cwd         = false // the working directory may be outside of the root
	Dumpable    = false // the process can be looked into before it executes
	Exe         = false // the runtime runs from its own file beside a container's processes
	Inheritable = false // permitted capabilities are inheritable as well
	Sysctl      = false // names of sysctls are not checked
	IDs         = false // numbers of users and groups are not checked
	Modes       = false // what is kept of a container is open to all that the umask lets in
	Abstract    = false // the gate is an abstract socket
	Ps          = false // ps(1) is the container's own
	CopyUp      = false // links are followed when a volume is filled, which need not be empty
	Copy        = false // paths of a container are looked up through links by cp
	Passwd      = false // what /etc/passwd is does not matter
	Size        = false // config.json may be of any size
	Buffer      = false // the output of a terminal is kept in memory
	Devices     = false // there are no device rules
	Seccomp     = false // no filter is installed
	Unpack      = false // folders of a layer are found by name, through links
	Ambiguous   = false // a manifest may be taken for two things
	Digests     = false // digests are not checked before they become part of an address
	Bombs       = false // what a few packed bytes become has no limit
	Cgroup      = false // a mount of cgroups shows the whole hierarchies, writable
)
