package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	fsmount "brig/internal/kernel/mount"
	"brig/internal/kernel/proc"
	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/config"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/runtime/oci"
)

// Places in the machine, none of which the container sees.
const (
	treeDir    = "/tree"       // the container's tree, as the host has it
	mountPoint = "/mnt"        // where the container's root is mounted, in its own mount namespace
	bundleDir  = "/run/bundle" // hooks have none here, but a folder is asked for
	groupPath  = "/container"  // its control group
)

// container is the one that the machine is for, or a member of the pod that it is for.
type container struct {
	spec  *specs.Spec
	made  *oci.Container
	tree  string     // its tree, as the host has it
	root  int        // of a member: a descriptor of its tree
	group string     // path of its control group
	infra *container // of its pod, where it is a member
}

// create builds the container of a configuration and executes its process.
func (a *agent) create(s *stream, body []byte) error {
	spec, err := config.Decode(body)
	if err != nil {
		return err
	}
	// Submounts are announced, so that files of two file systems with one inode number stay two.
	if err := mount(wire.TreeTag, treeDir, "virtiofs", 0, ""); err != nil {
		return err
	}
	pod, err := boxed.PodOf(spec)
	if err != nil {
		return err
	}
	if pod != nil {
		spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, wire.MembersDir)
	}
	c := &container{spec: spec, tree: treeDir, group: groupPath}
	if err := c.build(s); err != nil {
		return err
	}
	a.mu.Lock()
	a.main = c
	a.mu.Unlock()
	if <-a.networked; a.noNetwork != nil {
		return a.noNetwork
	}
	if !a.whole {
		if err := processors(c.made.Pid); err != nil {
			return err
		}
		a.whole = true
	}
	return c.begin(s)
}

// build makes a container's file systems and namespaces, and its process, which waits.
func (c *container) build(s *stream) error {
	if err := c.inside(); err != nil {
		return err
	}
	net, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(net)
	req := &oci.Request{ID: "container", Spec: c.spec, Bundle: bundleDir, RootPath: c.tree, MountPoint: mountPoint, NetNS: net, Gate: -1}
	if !c.spec.Process.Terminal {
		if req.Stdio, err = s.pipes(); err != nil {
			return err
		}
	}
	c.made, err = oci.Create(req)
	s.handedOver()
	return err
}

// begin executes the container's process.
func (c *container) begin(s *stream) error {
	s.begin(c.made.Process, c.spec.Process.Terminal)
	return c.made.Start()
}

// inside makes the configuration of a host's container the one of the same container here. What the host bound into the tree is bound again where a file
// system of the container's own would cover it, and where it must not be written to or executed.
func (c *container) inside() error {
	spec, tree := c.spec, c.tree
	spec.Root.Path = tree
	l := spec.Linux
	l.CgroupsPath, l.IntelRdt, l.MountLabel, spec.Hooks = c.group, nil, "", nil
	l.UIDMappings, l.GIDMappings, l.NetDevices = nil, nil, nil
	spec.Process.ApparmorProfile, spec.Process.SelinuxLabel = "", ""
	l.Resources = c.limits(l.Resources)
	l.Namespaces = c.namespaces()
	root, err := unix.Open(tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: tree, Err: err}
	}
	defer unix.Close(root)
	var own []string // places of file systems that the container makes itself
	keep := spec.Mounts[:0]
	for _, m := range spec.Mounts {
		dest := path.Clean("/" + m.Destination)
		if !boxed.Bound(&m) {
			if boxed.OfInfra(&m) {
				m.Options = append(flagsOf(m.Options), "bind", oci.OptionMountNS+c.infra.namespace("mnt"))
			}
			own = append(own, dest)
			keep = append(keep, m)
			continue
		}
		flags := flagsOf(m.Options)
		covered := slices.ContainsFunc(own, func(o string) bool { return strings.HasPrefix(dest+"/", strings.TrimSuffix(o, "/")+"/") })
		if !covered && len(flags) == 0 && !spec.Root.Readonly {
			continue // it is in the tree
		}
		source, folder, err := resolve(root, dest)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		if folder && m.Type == "bind" && !slices.Contains(m.Options, "rro") { // what is mounted in it may be written to: the host refuses what is written beside that
			flags = slices.DeleteFunc(flags, func(f string) bool { return f == "ro" })
			if !covered && len(flags) == 0 && !spec.Root.Readonly {
				continue // as above
			}
		}
		keep = append(keep, specs.Mount{Type: "bind", Source: source, Destination: m.Destination, Options: append(flags, "bind")})
	}
	spec.Mounts = keep
	return nil
}

// resolve is where a path of the tree leads, as a path of the machine's without links, and whether that is a folder.
func resolve(root int, path string) (at string, folder bool, err error) {
	fd, err := fsmount.OpenInRoot(root, path, unix.O_PATH, 0)
	if err != nil {
		return "", false, err
	}
	defer unix.Close(fd)
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return "", false, os.NewSyscallError("fstat", err)
	}
	at, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return at, s.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// flagsOf are the options of a bind mount that this kernel has to enforce; all others the host has seen to.
func flagsOf(options []string) (flags []string) {
	for _, o := range options {
		switch o {
		case "ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime":
			flags = append(flags, o)
		case "rro": // what is mounted in it the host has made so too
			flags = append(flags, "ro")
		}
	}
	return flags
}

// ranOut says of what the container, which has ended with that exit code, had run out: wire.EndMemory where the kernel killed something for want of memory.
func (c *container) ranOut(code int) (why byte) {
	if c == nil || c.made.Cgroup == nil {
		return 0
	}
	if n, err := c.made.Cgroup.OOMKills(); err == nil && n > 0 {
		why |= wire.EndMemory
	}
	if code != 0 && c.made.Cgroup.ForksRefused() > 0 {
		why |= wire.EndCrowded
	}
	return why
}

// more is one more process, as the monitor was given it.
type more struct {
	Process *specs.Process `json:"process"`
	User    string         `json:"user"`
	Ask     string         `json:"ask"` // as boxed.Exec
}

// exec starts one more process in a container.
//
// Or it gathers the processes that there are, which the stream then says; or has the kernel forget names and attributes of files.
func (a *agent) exec(s *stream, c *container, body []byte) error {
	if c == nil {
		return api.Errorf(api.Conflict, "the container is not running")
	}
	var x more
	if err := json.Unmarshal(body, &x); err != nil || x.Process == nil {
		switch x.Ask {
		case boxed.AskProcesses:
			s.told, err = c.processes()
			return err
		case boxed.AskForget:
			s.told = []byte{}
			return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
		}
		return api.Errorf(api.InvalidArgument, "the process to execute cannot be read: %v", err)
	}
	filter, err := oci.FilterOf(c.spec.Annotations, c.spec.Linux.Seccomp)
	if err != nil {
		return err
	}
	req := &oci.ExecRequest{Pid: c.made.Pid, Process: x.Process, User: x.User, Seccomp: filter, Cgroup: c.made.Cgroup, ID: "container", Bundle: bundleDir}
	if !x.Process.Terminal {
		if req.Stdio, err = s.pipes(); err != nil {
			return err
		}
	}
	p, err := oci.Exec(req)
	s.handedOver()
	if err != nil {
		return err
	}
	s.begin(p, x.Process.Terminal)
	return p.Start()
}

// processes are those of the container, as JSON.
func (c *container) processes() ([]byte, error) {
	if c.made.Cgroup == nil {
		return nil, api.Errorf(api.Unsupported, "the container has no control group")
	}
	pids, err := c.made.Cgroup.Pids()
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	list, boot := []*proc.Process{}, proc.Boot()
	for _, pid := range pids {
		if p, err := proc.Read(pid, boot); err == nil { // else it has ended
			list = append(list, p)
		}
	}
	return json.Marshal(list)
}
