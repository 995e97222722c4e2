package engine

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/runtime/boxed"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim"
)

// namespace is one that a container may share.
type namespace struct {
	kind specs.LinuxNamespaceType
	flag string
	file string // below /proc/PID/ns
	mode *string
}

// shared are the namespaces of a spec that modes are about.
func shared(s *api.ContainerSpec) [5]namespace {
	return [...]namespace{
		{specs.NetworkNamespace, "--network", "net", &s.Network.Mode}, {specs.PIDNamespace, "--pid", "pid", &s.Namespaces.PID},
		{specs.IPCNamespace, "--ipc", "ipc", &s.Namespaces.IPC}, {specs.UTSNamespace, "--uts", "uts", &s.Namespaces.UTS},
		{specs.CgroupNamespace, "--cgroupns", "cgroup", &s.Namespaces.CgroupNS},
	}
}

// resolveNamespaces turns the names of containers whose namespaces are shared into their IDs, and refuses what cannot be shared. A name may be
// another container's tomorrow.
func (e *Engine) resolveNamespaces(s *api.ContainerSpec) error {
	for _, n := range shared(s) {
		name, ok := strings.CutPrefix(*n.mode, api.NamespaceContainer)
		if !ok {
			continue
		}
		c, err := e.meta.Container(name)
		if err != nil {
			return err
		}
		if n.kind == specs.IPCNamespace && !shareable(&c.Spec) {
			return api.Errorf(api.InvalidArgument, "cannot join the IPC namespace of container %s: it is not shareable: create it with --ipc shareable", c.Name)
		}
		if n.kind == specs.NetworkNamespace && s.Hostname == "" && s.Namespaces.UTS == "" {
			s.Hostname = hostname(&c)
		}
		*n.mode = api.NamespaceContainer + c.ID
	}
	if p := s.Namespaces.PID; p != "" && p != api.NamespacePrivate && !e.hasGroups() {
		return api.Errorf(api.Unsupported, "--pid %s: a container without root's rights ends with its PID namespace, since it has no control group: it needs one of its own", p)
	}
	return nil
}

// shareable reports whether others may join a container's IPC namespace.
func shareable(s *api.ContainerSpec) bool {
	return s.Namespaces.IPC == api.NamespaceShareable || s.Namespaces.IPC == api.NamespaceHost || strings.HasPrefix(s.Namespaces.IPC, api.NamespaceContainer)
}

// joined are the namespaces that a container is about to join, open: so they are those of the process that was looked at, even if it ends now.
type joined struct {
	files   []*os.File
	paths   map[specs.LinuxNamespaceType]string
	network *os.File // nil: none
	shm     string   // the mount namespace whose /dev/shm is shared; empty: none
	box     string   // the mount namespace of the box of a pod's infra container; empty: it is not in one
}

func (j *joined) close() {
	if j == nil {
		return
	}
	for _, f := range j.files {
		f.Close()
	}
}

// joinOthers opens the namespaces that the container shares with others; nil: none but with the host.
func (e *Engine) joinOthers(c *api.Container) (j *joined, err error) {
	for _, n := range shared(&c.Spec) {
		path, isPath := strings.CutPrefix(*n.mode, api.NamespacePath)
		id, isContainer := strings.CutPrefix(*n.mode, api.NamespaceContainer)
		if !isPath && !isContainer {
			continue
		}
		if j == nil {
			j = &joined{paths: map[specs.LinuxNamespaceType]string{}}
			defer func() {
				if err != nil {
					j.close()
				}
			}()
		}
		if isPath {
			f, err := os.Open(path)
			if err != nil {
				return j, api.Errorf(api.InvalidArgument, "%s %s: %w", n.flag, *n.mode, err)
			}
			j.add(n.kind, f)
			continue
		}
		f, err := e.namespaceOf(id, n.file, n.flag)
		if err != nil {
			return j, err
		}
		j.add(n.kind, f)
		if n.kind == specs.NetworkNamespace && infraOf(&c.Spec) != "" {
			f, err := e.namespaceOf(id, "mnt", n.flag)
			if err != nil {
				return j, err
			}
			j.box = j.path(f)
		}
		if n.kind == specs.IPCNamespace {
			f, err := e.namespaceOf(id, "mnt", n.flag)
			if err != nil {
				return j, err
			}
			j.shm = j.path(f)
		}
	}
	return j, nil
}

func (j *joined) add(kind specs.LinuxNamespaceType, f *os.File) {
	j.paths[kind] = j.path(f)
	if kind == specs.NetworkNamespace {
		j.network = f
	}
}

// path keeps f open and returns where others find it as long as it is.
func (j *joined) path(f *os.File) string {
	j.files = append(j.files, f)
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(f.Fd()))
}

// namespaceOf opens a namespace of a container that runs.
func (e *Engine) namespaceOf(id, file, flag string) (*os.File, error) {
	name := id
	if c, err := e.meta.Container(id); err == nil {
		name = c.Name
	} else if errors.Is(err, api.NotFound) {
		return nil, api.Errorf(api.NotFound, "%s: no such container: %s: it was removed since this one was created", flag, id)
	}
	s, err := shim.ReadState(e.sandboxDir(id))
	if err == nil && running(s) {
		f, err := os.Open("/proc/" + strconv.Itoa(s.Pid) + "/ns/" + file)
		if err == nil && running(s) { // still the process that was meant
			return f, nil
		}
		if err == nil {
			f.Close()
		}
	}
	return nil, api.Errorf(api.Conflict, "%s: container %s is not running: start it first with `brig start %s`", flag, name, name)
}

// namespaces are those that a container has of its own, or joins.
func namespaces(s *api.ContainerSpec, j *joined, cgroup2 bool) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range shared(s) {
		own := *n.mode != api.NamespaceHost
		if n.kind == specs.CgroupNamespace && *n.mode == "" { // docker's default: private on version 2, the host's on version 1
			own = cgroup2 && !s.Privileged || s.Entrusted
		}
		if j != nil && j.paths[n.kind] != "" {
			list = append(list, specs.LinuxNamespace{Type: n.kind, Path: j.paths[n.kind]})
		} else if own {
			list = append(list, specs.LinuxNamespace{Type: n.kind})
		}
	}
	return list
}

// ipcMounts are /dev/mqueue and /dev/shm, which belong to the IPC namespace.
func ipcMounts(s *api.ContainerSpec, j *joined) []specs.Mount {
	noexec := []string{"nosuid", "noexec", "nodev"}
	queue := specs.Mount{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: noexec}
	shm := specs.Mount{Type: "tmpfs", Source: "shm", Destination: "/dev/shm", Options: append(noexec[:3:3], "mode=1777", "size="+itoa(shmSize(s)))}
	switch mode := s.Namespaces.IPC; {
	case mode == api.NamespaceNone:
		return []specs.Mount{queue}
	case isChroot(s): // /dev/shm is but a folder
	case mode == api.NamespaceHost:
		shm = specs.Mount{Type: "bind", Source: "/dev/shm", Destination: "/dev/shm", Options: append(noexec[:3:3], "bind", "rprivate")}
		if rootless.Active() && !exists("/dev/mqueue") {
			return []specs.Mount{shm} // the queues of the host's namespace are root's to mount
		}
		if exists("/dev/mqueue") {
			queue = specs.Mount{Type: "bind", Source: "/dev/mqueue", Destination: "/dev/mqueue", Options: append(noexec[:3:3], "bind", "rprivate")}
		} else if rootless.Active() { // the host's is not this user's to mount
			return []specs.Mount{shm}
		}
	case j != nil && j.shm != "" && j.box != "":
		shm = specs.Mount{Type: "bind", Source: "/dev/shm", Destination: "/dev/shm", Options: append(noexec[:3:3], boxed.OptionInfra)}
	case j != nil && j.shm != "":
		shm = specs.Mount{Type: "bind", Source: "/dev/shm", Destination: "/dev/shm", Options: append(noexec[:3:3], "bind", "rprivate", oci.OptionMountNS+j.shm)}
	}
	return []specs.Mount{queue, shm}
}

// netFiles is the container whose hosts, hostname and resolv.conf a container has: whose network it has.
func (e *Engine) netFiles(c *api.Container) string {
	id, mode := c.ID, c.Spec.Network.Mode
	for range 16 { // a container can only join one that was there before it
		next, joins := strings.CutPrefix(mode, api.NamespaceContainer)
		if !joins {
			break
		}
		o, err := e.meta.Container(next)
		if err != nil {
			break
		}
		id, mode = o.ID, o.Spec.Network.Mode
	}
	return id
}

// attach makes the container's place on the network, or takes the one that it joins, whose addresses and ports are another's.
func (e *Engine) attach(ctx context.Context, c *api.Container, j *joined) (*api.Link, error) {
	if j == nil || j.network == nil {
		own, err := ownNetwork(&c.Spec)
		if err != nil {
			return nil, err
		}
		spec := networkSpec(c)
		if own != nil {
			defer own.Close()
			spec.Namespace = own
		}
		return e.network.Attach(ctx, c.ID, spec)
	}
	ns, err := unix.FcntlInt(j.network.Fd(), unix.F_DUPFD_CLOEXEC, 0) // the link's files are the sandbox's to close
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &api.Link{Network: c.Spec.Network.Mode, NetNS: os.NewFile(uintptr(ns), "network")}, nil
}
