package monitor

import (
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/seccomp"
)

// openMemory opens the memory of QEMU, as pid, for reading and writing. Who has QEMU's user for files may, which takes no right that the monitor would not have already; what was opened
// stays usable when it has none.
func openMemory(pid int) (*os.File, error) {
	return openAs(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR)
}

// openAsQEMU opens a file for reading that QEMU's user may read.
func openAsQEMU(name string) (*os.File, error) { return openAs(name, os.O_RDONLY) }

func openAs(name string, flags int) (f *os.File, err error) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread() // for good: the thread's user is another
		if err = unix.Setfsgid(qemuUser); err == nil {
			err = unix.Setfsuid(qemuUser)
		}
		if err == nil {
			f, err = os.OpenFile(name, flags, 0)
		}
	}()
	<-over
	return f, err
}

// emulatorFilter is what a QEMU that comes from a template runs under, as one that starts by itself runs under its own (-sandbox): it starts no process, changes no user, and takes no
// resources of others.
func emulatorFilter() ([]unix.SockFilter, error) {
	errno, absent := uint(unix.EPERM), uint(unix.ENOSYS)
	f, err := seccomp.Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{
			{Action: specs.ActErrno, ErrnoRet: &errno, Names: []string{
				"chroot", "execve", "execveat", "fork", "kcmp", "migrate_pages", "move_pages", "personality", "pidfd_getfd", "prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam",
				"sched_setscheduler", "set_mempolicy", "setdomainname", "setfsgid", "setfsuid", "setgid", "setgroups", "sethostname", "setns", "setpgid", "setpriority", "setregid", "setresgid",
				"setresuid", "setreuid", "setrlimit", "setsid", "setuid", "unshare", "vfork",
			}},
			{Action: specs.ActErrno, ErrnoRet: &errno, Names: []string{"clone"}, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpMaskedEqual, Value: unix.CLONE_THREAD, ValueTwo: 0}}},
			{Action: specs.ActErrno, ErrnoRet: &absent, Names: []string{"clone3"}}, // whose flags a filter does not see
		},
	})
	if err != nil {
		return nil, err
	}
	return f.Prog, nil
}
