package monitor

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestEmulatorFilter tries, under the filter of a QEMU that comes from a template, what QEMU must not do.
func TestEmulatorFilter(t *testing.T) {
	filter, err := emulatorFilter()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread() // for good: it ends with the goroutine, and its filter with it
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Error(err)
			return
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
			t.Error(errno)
			return
		}
		if err := unix.Exec("/bin/true", []string{"true"}, nil); err != unix.EPERM {
			t.Errorf("another program: %v", err)
		}
		for name, call := range map[string][4]uintptr{
			"a process by fork":  {unix.SYS_FORK},
			"a process by clone": {unix.SYS_CLONE, uintptr(unix.SIGCHLD)},
			"another user":       {unix.SYS_SETRESUID, 1, 1, 1},
			"a priority":         {unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, 1},
			"a session":          {unix.SYS_SETSID},
			"a namespace":        {unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
		} {
			pid, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3])
			if errno == 0 && pid == 0 && (call[0] == unix.SYS_FORK || call[0] == unix.SYS_CLONE) {
				unix.Exit(0) // a child
			}
			if errno != unix.EPERM {
				t.Errorf("%s: %v", name, errno)
			}
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
			t.Errorf("clone3: %v", errno)
		}
		if _, err := os.ReadFile("/proc/self/status"); err != nil {
			t.Errorf("what it may: %v", err)
		}
	}()
	<-over
}
