package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempts are all of them, in the order in which they are made: what ends something comes last.
func attempts() []attempt {
	return []attempt{
		{"descriptors", strayDescriptors},
		{"host-files-proc", hostFilesByProc},
		{"host-files-chroot", func(t *Target) (bool, string) { return alone("chroot", t, 0) }},
		{"host-files-handle", hostFilesByHandle},
		{"mount", mountSomething},
		{"user-namespace", func(t *Target) (bool, string) { return alone("nothing", t, unix.CLONE_NEWUSER) }},
		{"join-namespace", joinNamespace},
		{"sysctl", func(*Target) (bool, string) {
			return rewrite("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness")
		}},
		{"sysrq", func(*Target) (bool, string) { return writable("/proc/sysrq-trigger") }},
		{"sysfs", func(*Target) (bool, string) {
			return writable("/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state")
		}},
		{"kernel-memory", kernelMemory},
		{"disk", disk},
		{"cgroup", controlGroups},
		{"release-agent", releaseAgent},
		{"module", loadModule},
		{"bpf", loadBPF},
		{"keyring", readKey},
		{"kernel-log", kernelLog},
		{"clock", setClock},
		{"reboot", reboot},
		{"host-loopback", hostLoopback},
		{"abstract-socket", abstractSocket},
		{"raw-network", rawNetwork},
		{"setuid-on-bind", setuidOnBind},
		{"node-on-bind", nodeOnBind},
		{"ptrace", traceVictim},
		{"kill", killVictim},
		{"link", leaveLink},
	}
}

// strayDescriptors looks for what whoever made the container has left open in it.
func strayDescriptors(*Target) (bool, string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return false, err.Error()
	}
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if n < 3 || err != nil || strings.HasPrefix(to, "anon_inode:") || strings.HasSuffix(to, "/fd") { // of this program: its poller, and the folder that is read
			continue
		}
		return true, fmt.Sprintf("descriptor %d is %s", n, to)
	}
	return false, "the standard streams alone"
}

// hostFilesByProc reads the secret through the roots, working folders and open folders of all processes that are to be seen.
func hostFilesByProc(t *Target) (bool, string) {
	pids := processes()
	why := "no other process is to be seen"
	for _, pid := range pids {
		for _, way := range []string{"root", "cwd/" + strings.Repeat("../", 32)} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s%s", pid, way, t.Secret))
			if err == nil && t.told(data) {
				return true, fmt.Sprintf("read by /proc/%d/%s", pid, way)
			}
			if err != nil {
				why = fmt.Sprintf("%d processes, the last: %v", len(pids), errors.Unwrap(err))
			}
		}
	}
	return false, why
}

// leaveRoot is chroot(2)'s old way out: a process whose working folder is above its root is not held by it.
func leaveRoot(t *Target) (bool, string) {
	dir, err := os.MkdirTemp("/tmp", "root")
	if err != nil {
		if dir, err = os.MkdirTemp("/", "root"); err != nil {
			return false, err.Error()
		}
	}
	defer os.Remove(dir)
	if err := unix.Chroot(dir); err != nil {
		return false, "chroot: " + err.Error()
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			break
		}
	}
	if err := unix.Chroot("."); err != nil {
		return false, "chroot: " + err.Error()
	}
	data, err := os.ReadFile(t.Secret)
	if err == nil && t.told(data) {
		return true, "read by a second change of root"
	}
	return false, "what lies above the root is the container's own"
}

// hostFilesByHandle opens a file by its number, as which any file of its file system can be opened: CAP_DAC_READ_SEARCH.
func hostFilesByHandle(*Target) (bool, string) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/etc/hosts", 0)
	if err != nil {
		return false, err.Error()
	}
	at, err := unix.Open("/etc/hosts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err.Error()
	}
	defer unix.Close(at)
	fd, err := unix.OpenByHandleAt(at, handle, unix.O_RDONLY)
	if err == nil {
		unix.Close(fd)
	}
	return verdict(err, "open_by_handle_at works: every file of the disk that /etc/hosts lies on can be opened")
}

func mountSomething(*Target) (bool, string) {
	dir, err := os.MkdirTemp("/dev", "mount")
	if err != nil {
		return false, err.Error()
	}
	defer os.Remove(dir)
	err = unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	if err == nil {
		unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // it was empty
	}
	return verdict(err, "a file system was mounted")
}

// joinNamespace enters the host name's namespace of a process of the host's.
func joinNamespace(t *Target) (bool, string) {
	pid := t.victim()
	if pid == 0 {
		return false, unseen
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/uts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err.Error()
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return verdict(unix.Setns(fd, unix.CLONE_NEWUTS), "joined")
}

// rewrite writes to files what is in them already.
func rewrite(paths ...string) (bool, string) {
	why := ""
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err == nil {
			err = overwrite(p, data)
		}
		if err == nil {
			return true, p + " was written"
		}
		why = err.Error()
	}
	return false, why
}

func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// writable opens files for writing, and writes nothing.
func writable(paths ...string) (bool, string) {
	why := "not there"
	for _, p := range paths {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err == nil {
			f.Close()
			return true, p + " is open for writing"
		}
		if !errors.Is(err, os.ErrNotExist) {
			why = err.Error()
		}
	}
	return false, why
}

// node makes a device node and reads from it.
func node(kind uint32, major, minor uint32) error {
	path := filepath.Join("/dev", fmt.Sprintf("probe-%d-%d", major, minor))
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	defer os.Remove(path)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	_, err = unix.Read(fd, make([]byte, 512))
	return os.NewSyscallError("read", err)
}

func kernelMemory(*Target) (bool, string) {
	const mem = 1 // of the memory devices, major 1: Documentation/admin-guide/devices.txt
	err := node(unix.S_IFCHR, 1, mem)
	if err == nil {
		return true, "/dev/mem was read"
	}
	f, kerr := os.Open("/proc/kcore")
	if kerr == nil {
		defer f.Close()
		if n, _ := f.Read(make([]byte, 4096)); n > 0 {
			return true, "/proc/kcore was read"
		}
	}
	return false, "/dev/mem: " + err.Error()
}

// disk reads from each of the machine's disks, by a node that it makes.
func disk(*Target) (bool, string) {
	table, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return false, err.Error()
	}
	why := "there is none"
	for line := range strings.Lines(string(table)) { // major minor #blocks name: proc(5)
		f := strings.Fields(line)
		if len(f) != 4 {
			continue
		}
		major, err1 := strconv.ParseUint(f[0], 10, 32)
		minor, err2 := strconv.ParseUint(f[1], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		if err := node(unix.S_IFBLK, uint32(major), uint32(minor)); err == nil {
			return true, f[3] + " was read"
		} else {
			why = f[3] + ": " + err.Error()
		}
	}
	return false, why
}

// controlGroups opens the container's own limits for writing.
func controlGroups(*Target) (bool, string) {
	var files []string
	for _, name := range []string{"memory.max", "pids.max", "cgroup.procs"} {
		files = append(files, "/sys/fs/cgroup/"+name)
	}
	for _, name := range []string{"memory/memory.limit_in_bytes", "pids/pids.max", "devices/devices.allow", "cpu/cpu.shares"} {
		files = append(files, "/sys/fs/cgroup/"+name)
	}
	return writable(files...)
}

// releaseAgent looks for the file of version 1 that names a program for the host to run, where the groups are mounted and where it mounts them itself.
func releaseAgent(*Target) (bool, string) {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/release_agent")
	if open, how := writable(append(found, "/sys/fs/cgroup/release_agent")...); open {
		return true, how
	}
	dir, err := os.MkdirTemp("/dev", "groups")
	if err != nil {
		return false, err.Error()
	}
	defer os.Remove(dir)
	for _, controller := range []string{"memory", "rdma", "pids", "cpu"} {
		if err = unix.Mount("cgroup", dir, "cgroup", 0, controller); err != nil {
			continue
		}
		open, how := writable(dir + "/release_agent")
		unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // it was mounted a moment ago
		if open {
			return true, how
		}
	}
	return verdict(err, "")
}

// loadModule hands the kernel a module that is none: who may load modules is told so.
func loadModule(*Target) (bool, string) {
	err := unix.InitModule([]byte("no module"), "")
	if err == unix.ENOEXEC {
		return true, "the kernel looked at a module"
	}
	return false, err.Error()
}

func loadBPF(*Target) (bool, string) {
	attr := struct{ kind, key, value, entries, flags uint32 }{2, 4, 4, 1, 0} // BPF_MAP_TYPE_ARRAY
	fd, _, errno := unix.Syscall(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return false, errno.Error()
	}
	unix.Close(int(fd))
	return true, "a map was made"
}

// readKey reads a key of the host's user.
func readKey(t *Target) (bool, string) {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", t.Key, 0)
	if err != nil {
		return false, err.Error()
	}
	buf := make([]byte, 256)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, buf, 0)
	if err == unix.EACCES { // it is read by who possesses it: who has linked the user's keyring to a session's
		_, serr := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
		_, lerr := unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
		if serr == nil && lerr == nil {
			n, err = unix.KeyctlBuffer(unix.KEYCTL_READ, id, buf, 0)
		}
	}
	if err == nil && t.told(buf[:min(n, len(buf))]) {
		return true, "read"
	}
	return false, fmt.Sprint(err)
}

func kernelLog(*Target) (bool, string) {
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 4096))
	return verdict(err, fmt.Sprintf("%d bytes were read", n))
}

// setClock sets the length of the clock's tick to what it is.
func setClock(*Target) (bool, string) {
	var now unix.Timex
	if _, err := unix.Adjtimex(&now); err != nil {
		return false, err.Error()
	}
	const tick = 0x4000 // ADJ_TICK of adjtimex(2)
	_, err := unix.Adjtimex(&unix.Timex{Modes: tick, Tick: now.Tick})
	return verdict(err, "the clock was set")
}

// reboot asks for one with wrong numbers, which the kernel looks at after the right to do so.
func reboot(*Target) (bool, string) {
	_, _, errno := unix.Syscall(unix.SYS_REBOOT, 0, 0, 0)
	if errno == unix.EINVAL {
		return true, "it may"
	}
	return false, errno.Error()
}

// hostLoopback asks for the token where only the host's processes listen.
func hostLoopback(t *Target) (bool, string) {
	port, err := strconv.ParseUint(t.Port, 10, 16)
	if err != nil {
		return false, "nobody listens"
	}
	return ask(t, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}, unix.AF_INET)
}

func abstractSocket(t *Target) (bool, string) {
	return ask(t, &unix.SockaddrUnix{Name: "@" + t.Abstract}, unix.AF_UNIX)
}

func ask(t *Target, to unix.Sockaddr, family int) (bool, string) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err.Error()
	}
	defer unix.Close(fd)
	patience := unix.Timeval{Sec: 2}
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &patience); err != nil {
			return false, err.Error()
		}
	}
	if err := unix.Connect(fd, to); err != nil {
		return false, err.Error()
	}
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	if t.told(buf[:max(n, 0)]) {
		return true, "a process of the host's answered"
	}
	return false, fmt.Sprint("somebody else's: ", err)
}

// rawNetwork opens a socket that sees every packet, and asks whether the network is the host's.
func rawNetwork(t *Target) (bool, string) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err.Error()
	}
	unix.Close(fd)
	if host, _ := hostLoopback(t); host {
		return true, "packets of the host's network"
	}
	return false, "of its own network only"
}

func setuidOnBind(*Target) (bool, string) {
	path := filepath.Join(Bound, Setuid)
	err := os.WriteFile(path, []byte("#!/bin/true\n"), 0o755)
	if err == nil {
		err = unix.Chmod(path, unix.S_ISUID|0o755)
	}
	return verdict(err, "made; whether it is root's is seen on the host")
}

func nodeOnBind(*Target) (bool, string) {
	const null = 3
	return verdict(unix.Mknod(filepath.Join(Bound, Node), unix.S_IFCHR|0o666, int(unix.Mkdev(1, null))), "made")
}

func traceVictim(t *Target) (bool, string) {
	pid := t.victim()
	if pid == 0 {
		return false, unseen
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := unix.PtraceAttach(pid)
	if err == nil {
		unix.Wait4(pid, nil, unix.WALL, nil) //nolint:errcheck // it stands, or has ended
		unix.PtraceDetach(pid)               //nolint:errcheck // it does so at this process's end
	}
	return verdict(err, "a process of the host's was traced")
}

func killVictim(t *Target) (bool, string) {
	pid := t.victim()
	if pid == 0 {
		return false, unseen
	}
	return verdict(unix.Kill(pid, unix.SIGUSR1), "a process of the host's was sent a signal")
}

// leaveLink leaves what leads out of the root for who looks names up from outside.
func leaveLink(*Target) (bool, string) {
	if err := os.Symlink("/", Link); err != nil {
		return false, err.Error()
	}
	return false, "left for cp"
}
