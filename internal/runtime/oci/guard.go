package oci

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/mount"
)

// Until it executes, the container's process is this program, and a process of the container that may look into it, with CAP_SYS_PTRACE, gets a
// handle on this program's file by /proc/PID/exe. The handle outlasts this program, and with it the protection of a file that is
// being run: the host's runtime could be written over (CVE-2019-5736). So where a process of the container's may be there at the time, the
// runtime goes on from a read-only place first. Where none can be (run and create in a new PID namespace) or none may look (everything is
// refused to who lacks the capability, and to a user namespace's root user) it does not, since that costs a second start of the program.

// tracer is the capability to look into every process.
const tracer = "CAP_SYS_PTRACE"

// GuardCreate goes on from a read-only place if the container is to share its PID namespace with what is there, or if it waits for its start, when
// an exec may come to be beside it.
func GuardCreate(s *specs.Spec, held bool) error {
	if joinsPIDs(s) {
		return guard()
	}
	if held && traces(s.Process) && (usesUserNS(s) == nil || os.Geteuid() != 0) { // who is not root may own the file, and be the container's root
		return guard()
	}
	return nil
}

// stageProgram opens what is executed as a stage. Other than a child of a program that was started outside, a stage belongs to its user namespace, whose
// root user may look into it with CAP_SYS_PTRACE alone. Where such a process can be there, the program is one that the user may
// execute but not read: the kernel then keeps it out of the user namespace's reach (execve(2) and ptrace(2): PTRACE_MODE checks go by the user namespace in
// which the file can be read).
func stageProgram(s *specs.Spec, held bool) (int, error) {
	secret := s != nil && os.Geteuid() == 0 && !weak.Exe && (joinsPIDs(s) || held && traces(s.Process))
	how := unix.O_PATH
	if secret {
		how = unix.O_RDONLY
	}
	fd, err := unix.Open("/proc/self/exe", how|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/proc/self/exe", Err: err}
	}
	if !secret {
		return fd, nil
	}
	defer unix.Close(fd)
	to, err := sealedCopy(fd)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(to, 0o111); err != nil {
		unix.Close(to)
		return -1, os.NewSyscallError("fchmod", err)
	}
	return to, nil
}

// GuardExec does the same for an exec of p in the container of s, whose first process is pid.
func GuardExec(pid int, s *specs.Spec, p *specs.Process) error {
	if !joinsPIDs(s) && !traces(s.Process) && !traces(p) {
		return nil
	}
	userNS, err := OtherUserNS(pid)
	if err != nil {
		return err
	}
	if userNS > 0 { // its root user has no rights over a program that was started outside
		unix.Close(userNS)
		return nil
	}
	if traces(p) && !weak.Exe && isOpen(pid) {
		return api.Errorf(api.Conflict, "the container waits for its start, and a process with %s could look into the runtime there: start it first, or leave the capability out", tracer)
	}
	return guard()
}

// joinsPIDs reports whether the container is in a PID namespace that was there before. In the host's own, whoever may look into processes may
// look into the host's as well, so there is nothing to guard.
func joinsPIDs(s *specs.Spec) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace && n.Path != "" })
}

func traces(p *specs.Process) bool {
	return p.Capabilities != nil && (slices.Contains(p.Capabilities.Bounding, tracer) || slices.Contains(p.Capabilities.Permitted, tracer))
}

// isOpen reports whether pid is this program still, and not from a read-only place.
func isOpen(pid int) bool {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st, own unix.Stat_t
	var fs unix.Statfs_t
	return unix.Fstat(fd, &st) == nil && unix.Stat("/proc/self/exe", &own) == nil && st.Dev == own.Dev && st.Ino == own.Ino &&
		unix.Fstatfs(fd, &fs) == nil && fs.Flags&unix.ST_RDONLY == 0
}

// guard executes this program anew, with the same arguments, from where it cannot be written to, unless it is there already.
func guard() error {
	if weak.Exe {
		return nil
	}
	fd, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/proc/self/exe", Err: err}
	}
	defer unix.Close(fd)
	if guarded(fd) {
		return nil
	}
	place, err := ReadOnlyFile("/proc/self/exe")
	if err != nil { // without root's rights, or from a mount that may not be copied
		if place, err = sealedCopy(fd); err != nil {
			return err
		}
	}
	defer unix.Close(place)
	argv, env := cstrings(os.Args), cstrings(os.Environ())
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(place), uintptr(unsafe.Pointer(&emptyName)), uintptr(unsafe.Pointer(&argv[0])),
		uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return os.NewSyscallError("execveat", errno)
}

// guarded reports whether the file of fd cannot be written to by the container's processes, which have no more rights than this one.
func guarded(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return true
	}
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil && seals&unix.F_SEAL_WRITE != 0 {
		return true
	}
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && int(st.Uid) != os.Geteuid() && unix.Faccessat(unix.AT_FDCWD, "/proc/self/exe", unix.W_OK, unix.AT_EACCESS) == unix.EACCES
}

// ReadOnlyFile opens a program on a mount of its own that is read-only and attached nowhere: whoever gets hold of /proc/PID/exe of it holds a file that
// cannot be opened for writing.
func ReadOnlyFile(program string) (int, error) {
	fd, err := mount.Clone(unix.AT_FDCWD, program, false)
	if err != nil {
		return -1, err
	}
	if err := mount.SetAttr(fd, false, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID, 0, unix.MS_PRIVATE); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sealedCopy is a copy of fd's file in memory that cannot be changed: memfd_create(2), "File sealing".
func sealedCopy(fd int) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	to, err := unix.MemfdCreate("brig-oci", flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		to, err = unix.MemfdCreate("brig-oci", flags)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for {
		n, err := unix.Sendfile(to, fd, nil, 1<<30)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			unix.Close(to)
			return -1, os.NewSyscallError("sendfile", err)
		}
		if n == 0 {
			break
		}
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(to), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(to)
		return -1, os.NewSyscallError("fcntl", err)
	}
	return to, nil
}

// cstrings is an argument vector. No string of this process's own arguments or environment has a NUL byte in it.
func cstrings(list []string) []*byte {
	out := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		out = append(out, unsafe.StringData(strings.Clone(s+"\x00")))
	}
	return append(out, nil)
}
