package shim

import (
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/internal/base/rootless"
	"brig/internal/runtime/oci"
)

// memberFD is the descriptor by which a rootless shim holds its place in the user namespace, and has the place live as long as itself.
const memberFD = 5

// forkExec starts program in a session of its own with descriptors 3… as given and standard streams on /dev/null.
//
// The program is executed through a detached, read-only mount of its file. A process in a container that gets hold of /proc/PID/exe of one of the
// shim's children then holds a file that cannot be opened for writing, whoever it is (CVE-2019-5736).
func forkExec(program string, argv []string, fds []int) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	for _, fd := range fds {
		files = append(files, uintptr(fd))
	}
	path := program
	// What syscall.ForkExec needs for itself it takes from above the descriptors that it is given, one for each and one more.
	if ro, err := oci.ReadOnlyFile(program); err == nil { // else this process may not make mounts
		fd, err := unix.FcntlInt(uintptr(ro), unix.F_DUPFD_CLOEXEC, int(slices.Max(files))+len(files)+2)
		unix.Close(ro)
		if err != nil {
			return 0, os.NewSyscallError("fcntl", err)
		}
		defer unix.Close(fd)
		path = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=2", "GODEBUG=madvdontneed=1"}
	env = append(env, rootless.Environ(memberFD)...)
	if rootless.User() {
		for _, name := range []string{"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} { // the way to the user's systemd
			if value := os.Getenv(name); value != "" {
				env = append(env, name+"="+value)
			}
		}
	}
	return syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}
