package guest

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/config"
	"brig/internal/runtime/microvm/wire"
)

// A machine that is a pod's has more containers than its first, which holds what they share. The tree of each comes to be below the machine's tree when the monitor asks for the container.

// further runs a process that is not the machine's first: one of the container's, a member of the pod, or one of a member's.
func (a *agent) further(s *stream, body []byte) error {
	var m wire.Member
	if err := json.Unmarshal(body, &m); err != nil {
		return api.Errorf(api.InvalidArgument, "what to execute cannot be read: %v", err)
	}
	a.mu.Lock()
	main, member := a.main, a.members[m.Member]
	a.mu.Unlock()
	switch {
	case m.Member == "":
		return a.exec(s, main, body)
	case len(m.Config) == 0:
		return a.exec(s, member, m.Exec)
	case main == nil || member != nil || strings.ContainsAny(m.Member, "/\x00") || strings.HasPrefix(m.Member, "."):
		return api.Errorf(api.InvalidArgument, "member %q cannot be made in this machine", m.Member)
	}
	c, err := a.member(s, &m, main)
	if err != nil {
		return err
	}
	s.member = m.Member
	a.mu.Lock()
	a.members[m.Member] = c
	a.mu.Unlock()
	return c.begin(s)
}

// member builds the container of one more member.
func (a *agent) member(s *stream, m *wire.Member, infra *container) (*container, error) {
	spec, err := config.Decode(m.Config)
	if err != nil {
		return nil, err
	}
	a.building.Lock()
	defer a.building.Unlock()
	c := &container{spec: spec, tree: treeDir + wire.MembersDir + "/" + m.Member, group: "/" + m.Member, infra: infra}
	if c.root, err = unix.Open(c.tree, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, &os.PathError{Op: "open", Path: c.tree, Err: err}
	}
	err = c.build(s)
	// From now on the tree is in the container's mounts alone: when they have gone this kernel knows it no more, and the host's can let it go.
	if e := unix.Unmount(treeDir+wire.MembersDir, unix.MNT_DETACH); err == nil && e != nil {
		c.made.Abandon()
		err = os.NewSyscallError("umount", e)
	}
	if err != nil {
		unix.Close(c.root)
		return nil, err
	}
	return c, nil
}

// endMember ends what is left of the member whose first process a stream was. It says of what that one, which has ended with the code, had run out: see ranOut.
func (a *agent) endMember(s *stream, code int) (why byte) {
	if s.member == "" {
		return 0
	}
	a.mu.Lock()
	c := a.members[s.member]
	delete(a.members, s.member)
	a.mu.Unlock()
	if g := c.made.Cgroup; g != nil {
		_ = g.Kill(unix.SIGKILL) // those that share the pod's processes do not end with the first
		why = c.ranOut(code)
		_ = g.Remove() // else it is there until the machine ends
	}
	_ = unix.Syncfs(c.root) // what was written through mappings goes to the host, before it hears of the end
	unix.Close(c.root)
	return why
}

// limits are those that are kept in the machine. What the machine's only container may use is the size of the machine, and of its box.
func (c *container) limits(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	own := &specs.LinuxResources{Pids: r.Pids, Devices: r.Devices}
	if c.infra == nil {
		return own
	}
	if r.Memory != nil {
		own.Memory = &specs.LinuxMemory{Limit: r.Memory.Limit, Reservation: r.Memory.Reservation}
	}
	if r.CPU != nil {
		own.CPU = &specs.LinuxCPU{Shares: r.CPU.Shares, Quota: r.CPU.Quota, Period: r.CPU.Period}
	}
	return own
}

// namespaces are the container's own, and those that it has with its pod.
func (c *container) namespaces() []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}, {Type: specs.NetworkNamespace}}
	for _, n := range [...]struct {
		kind specs.LinuxNamespaceType
		file string
	}{{specs.PIDNamespace, "pid"}, {specs.IPCNamespace, "ipc"}, {specs.UTSNamespace, "uts"}} {
		own := specs.LinuxNamespace{Type: n.kind}
		if c.infra != nil && boxed.Shared(c.spec, n.kind) {
			own.Path = c.infra.namespace(n.file)
		}
		list = append(list, own)
	}
	return list
}

// namespace is the path of one of the container's.
func (c *container) namespace(file string) string {
	return "/proc/" + strconv.Itoa(c.made.Pid) + "/ns/" + file
}
