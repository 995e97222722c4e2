package microvm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/kernel/proc"
	"brig/internal/runtime/boxed"
	"brig/internal/runtime/microvm/template"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/runtime/oci"
)

// templatesPath is the folder of templates, in the box: all of it, since one may go while there is a container that could start from it again.
const templatesPath = "/box/templates"

// fromTemplate has a machine start from the template of its kind. Where there is none it starts from nothing, and the template is made meanwhile; it is a matter of time alone,
// so whatever goes wrong here goes wrong in silence.
func (l *Level) fromTemplate(box *specs.Spec, n *needs, m *wire.Machine) {
	if l.FromNothing || l.Templates == "" || m.Accel != wire.AccelTCG { // KVM boots a kernel in as much time
		return
	}
	if !l.room(m.Memory) {
		return
	}
	name, err := kind(m, n.qemu, n.kernel, l.Guest, l.Monitor)
	if err != nil || os.MkdirAll(l.Templates, 0o700) != nil {
		return
	}
	box.Mounts = append(box.Mounts, specs.Mount{Type: "bind", Source: l.Templates, Destination: templatesPath, Options: readOnly})
	m.Template = filepath.Join(templatesPath, name)
	path := filepath.Join(l.Templates, name)
	switch found, err := template.Open(path, m.Memory); {
	case err == nil:
		found.Close()
		used := time.Now()
		_ = os.Chtimes(path, used, used) // the one that was not for longest goes first
		return
	case errors.Is(err, template.ErrDamaged):
		if m.Damaged = template.Remove(l.Templates, name) == nil; !m.Damaged {
			return
		}
	case exists(filepath.Join(l.Templates, wire.Reason(name))):
		return
	}
	l.make(name, n, *m)
}

// room reports whether there is room for a template of a machine with so much memory, in bytes, of whose pages the kernel keeps a list: the folder is on a file system that others need.
func (l *Level) room(memory int64) bool {
	var fs syscall.Statfs_t
	return os.MkdirAll(l.Templates, 0o700) == nil && syscall.Statfs(l.Templates, &fs) == nil && int64(fs.Bavail)*fs.Bsize > 4*(160<<20+memory/64)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Forget removes all templates but one that is being made. Machines that come from one go on.
func (l *Level) Forget() error {
	entries, err := os.ReadDir(l.Templates)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	held, lerr := lock.Try(filepath.Join(l.Templates, wire.LockName))
	if lerr == nil {
		defer held.Release()
	}
	for _, e := range entries {
		switch {
		case e.Name() == wire.LockName, strings.HasPrefix(e.Name(), wire.New("")) && lerr != nil:
		case strings.HasPrefix(e.Name(), wire.New("")): // of a maker that was killed
			err = errors.Join(err, os.RemoveAll(filepath.Join(l.Templates, e.Name())))
		default:
			err = errors.Join(err, template.Remove(l.Templates, e.Name()))
		}
	}
	return err
}

// kind is the name of the template for machines like m: of all that a saved machine was made of. The clock of an emulated machine is the host's, which is another after a boot.
func kind(m *wire.Machine, files ...string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %d %d %s", wire.Version, proc.BootID(), m.Memory, m.CPUs, m.Accel)
	for _, f := range files {
		var s syscall.Stat_t
		if err := syscall.Stat(f, &s); err != nil {
			return "", err
		}
		fmt.Fprintf(h, " %s %d %d %d %d", f, s.Dev, s.Ino, s.Size, s.Mtim.Nano())
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// make has a template made, by a process that goes on when this one has ended, with what the machine at hand leaves of the processors.
func (l *Level) make(name string, n *needs, m wire.Machine) {
	const out = "/box/out"
	rehearsal, err := record.Marshal(nobodys())
	if err != nil {
		return
	}
	m.Template, m.Tree, m.Rehearsal = out, "/run/tree", rehearsal
	settings, err := record.Marshal(m)
	if err != nil {
		return
	}
	made := filepath.Join(l.Templates, wire.New(name), wire.OutDir)
	config, err := record.Marshal(l.makersBox(n, string(settings), made, out))
	if err != nil {
		return
	}
	job, err := record.Marshal(wire.Job{Dir: l.Templates, Name: name, Runtime: l.Runtime, Config: config})
	if err != nil {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	p, err := os.StartProcess(l.Monitor, []string{l.Monitor, wire.ArgTemplate}, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", wire.JobVar + "=" + string(job)}, Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, p.Pid, 10)
	go p.Wait() //nolint:errcheck // it is reaped, and what it made is there or not
}

// makersBox is the box in which a template is made: no network, nobody's tree, and one folder that can be written to.
func (l *Level) makersBox(n *needs, settings, made, out string) *specs.Spec {
	rights := append([]string{"CAP_SYS_PTRACE"}, capabilities...) // QEMU, which is another user, is saved
	everything := os.FileMode(0o600)
	box := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{boxed.ProgramPath, wire.ArgSave}, Env: []string{"PATH=/usr/bin:/bin", wire.MachineVar + "=" + settings}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: rights, Effective: rights, Permitted: rights},
		},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "noexec", "mode=755", "size=1m"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/run", Options: []string{"nosuid", "nodev", "mode=755", "size=64m"}},
			{Type: "bind", Source: l.Monitor, Destination: boxed.ProgramPath, Options: readOnly},
			{Type: "bind", Source: made, Destination: out, Options: []string{"bind", "nosuid", "nodev", "rprivate"}}, // what is in it is executed, to try it
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}},
			Devices:    []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &everything}},
			Seccomp:    makersFilter(),
		},
	}
	box.Mounts = append(l.programs(n), box.Mounts...)
	return box
}

// makersFilter is that of a box, but that QEMU may be traced, and nothing else be made.
func makersFilter() *specs.LinuxSeccomp {
	f := filter("ptrace")
	f.Syscalls[0].Names = append(f.Syscalls[0].Names, "mknod", "mknodat")
	return f
}

// nobodys is the configuration of a container that is nobody's, as the engine makes that of one without options. Nothing in it is a user's: it is in the memory of all that come from the template.
func nobodys() *specs.Spec {
	rights := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	}
	quiet := []string{"nosuid", "noexec", "nodev"}
	pids := int64(boxPids)
	null := func(minor int64) specs.LinuxDeviceCgroup {
		major := int64(1)
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	}
	return &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Hostname: "nobody",
		Process: &specs.Process{
			Args: []string{"/agent", wire.ArgRehearse}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: rights, Effective: rights, Permitted: rights},
		},
		Annotations: map[string]string{oci.AnnotationUser: "0:0", oci.AnnotationSeccomp: oci.SeccompDefault},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc", Options: quiet},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: append(quiet[:3:3], "ro")},
			{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: append(quiet[:3:3], "ro")},
			{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: quiet},
			{Type: "tmpfs", Source: "shm", Destination: "/dev/shm", Options: append(quiet[:3:3], "mode=1777", "size=65536k")},
		},
		Linux: &specs.Linux{
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, null(3), null(5), null(7), null(8), null(9)}, Pids: &specs.LinuxPids{Limit: &pids}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
