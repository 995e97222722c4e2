package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/lsm"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/resctrl"
)

// Nest is what a container needs that is not created but restored: a cgroup with its limits, and its root.
type Nest struct {
	Cgroup *cgroup.Group // nil: none
	Unit   string
	RDT    *resctrl.Group

	req   *Request
	place *place
}

// NewNest makes the cgroup. Of req, what is about the process is not looked at.
func NewNest(req *Request) (*Nest, error) {
	if err := Validate(req.Spec); err != nil {
		return nil, err
	}
	if l := req.Spec.Linux; l.MountLabel != "" && (lsm.Host{}).SELinux() != nil {
		l.MountLabel = ""
	}
	where, err := makePlace(req)
	if err != nil {
		return nil, err
	}
	n := &Nest{Cgroup: where.group, RDT: where.rdt, req: req, place: where}
	if where.scope != nil {
		n.Unit = where.scope.Unit
	}
	return n, nil
}

// Start starts a command that makes the container's processes: in its cgroup, with a session keyring of the container's, and in a mount namespace
// where the root is a mount on the folder RootPath, with a place for each mount of the spec.
func (n *Nest) Start(cmd *exec.Cmd) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
		if err := n.mountRoot(); err != nil {
			return fmt.Errorf("root file system: %w", err)
		}
		if !n.req.NoNewKeyring {
			id, err := unix.KeyctlJoinSessionKeyring("_ses." + n.req.ID)
			if err == nil {
				err = unix.KeyctlSetperm(id, keyPermDefault|keyUserSearch)
			}
			if err != nil && err != unix.ENOSYS {
				return fmt.Errorf("session keyring: %w", err)
			}
		}
		if n.req.Spec.Process.NoNewPrivileges { // criu 3.17 does not bring it back: the processes have it from their maker
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("no_new_privs: %w", err)
			}
		}
		return n.start(cmd)
	})
}

// start joins the cgroup and forks.
func (n *Nest) start(cmd *exec.Cmd) error {
	if n.Cgroup == nil {
		return cmd.Start()
	}
	v1, v2, err := n.Cgroup.JoinFiles()
	if err != nil {
		return err
	}
	for _, f := range v1 {
		defer f.Close()
		if _, err := f.WriteString("0"); err != nil { // this thread alone, and what it forks
			return err
		}
	}
	if v2 != nil {
		defer v2.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(v2.Fd())}
	}
	return cmd.Start()
}

// mountRoot binds the root on itself, private, and read-only where the spec has it so.
func (n *Nest) mountRoot() error {
	dir := n.req.RootPath
	fd, err := mount.Clone(unix.AT_FDCWD, dir, true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := mount.SetAttr(fd, true, 0, 0, unix.MS_PRIVATE); err != nil {
		return err
	}
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	if err := mount.Attach(fd, at); err != nil {
		return err
	}
	for i := range n.req.Spec.Mounts {
		if err := n.mountPoint(fd, &n.req.Spec.Mounts[i]); err != nil {
			return fmt.Errorf("place of mount %s: %w", n.req.Spec.Mounts[i].Destination, err)
		}
	}
	if n.req.Spec.Root.Readonly {
		return mount.SetAttr(fd, false, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
	return nil
}

// mountPoint makes the place of a mount that lies in the root itself.
func (n *Nest) mountPoint(root int, m *specs.Mount) error {
	dest := destination(m)
	for i := range n.req.Spec.Mounts {
		if above := destination(&n.req.Spec.Mounts[i]); above != "/" && strings.HasPrefix(dest, above+"/") {
			return nil
		}
	}
	folder := true
	if isBind(m) {
		src := m.Source
		if !path.IsAbs(src) {
			src = path.Join(n.req.Bundle, src)
		}
		var st unix.Stat_t
		if err := unix.Stat(src, &st); err != nil {
			return api.Errorf(api.InvalidArgument, "source %s: %w", src, err)
		}
		folder = st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	fd, err := mount.OpenInRoot(root, dest, unix.O_PATH, 0)
	switch {
	case err == nil:
	case folder:
		fd, err = mount.MkdirAllInRoot(root, dest, 0o755)
	default:
		fd, err = mount.MkfileInRoot(root, dest, 0o644)
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Settle puts the restored process in, as far as it is not there, writes the limits again, which an archive may have had its own of, and adopts it:
// it must be a child of the caller's.
func (n *Nest) Settle(pid int) (*Process, error) {
	if err := n.place.settle(pid); err != nil {
		return nil, err
	}
	if n.Cgroup != nil {
		if r := limits(n.req.Spec.Linux.Resources); r != nil {
			if err := n.Cgroup.Set(r); err != nil {
				return nil, err
			}
		}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &Process{Pid: pid, PidFD: fd, name: "the restored process", talk: -1}, nil
}

// Remove takes it back, with whoever is still in it.
func (n *Nest) Remove() { n.place.remove() }
