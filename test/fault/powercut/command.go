package powercut

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stageEnv asks a test program to put the filter on itself and to become the program that its arguments name; its value is the socket for the listener.
const stageEnv = "BRIG_POWERCUT_STAGE"

// Child is to be called first in a test program's main: where [FS.Start] started it, it does not return.
func Child() {
	if s := os.Getenv(stageEnv); s != "" {
		fmt.Fprintln(os.Stderr, "powercut:", child(s))
		os.Exit(99)
	}
}

// Start starts a command, one that [exec.Command] made, so that its syncfs(2) and sync(2), and those of all it starts, are operations of the file system.
// The test program must call [Child].
func (f *FS) Start(cmd *exec.Cmd) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	cmd.Env = append(cmd.Env, stageEnv+"="+strconv.Itoa(2+len(cmd.ExtraFiles)))
	cmd.Args = append([]string{"powercut", cmd.Path}, cmd.Args...)
	cmd.Path = "/proc/self/exe"
	if err := cmd.Start(); err != nil {
		return err
	}
	theirs.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return errors.Join(err, cmd.Wait(), errors.New("no listener came"))
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return err
	}
	listener, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	go f.listen(listener[0])
	return nil
}

// child puts the filter on this thread and executes the program. The listener goes to whoever is at the other end of the socket.
func child(socket string) error {
	runtime.LockOSThread()
	fd, err := strconv.Atoi(socket)
	if err != nil {
		return err
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load}, // the call's number
		{Code: equal, K: unix.SYS_SYNCFS, Jt: 2},
		{Code: equal, K: unix.SYS_SYNC, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp filter: %w", errno)
	}
	if err := unix.Sendmsg(fd, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return fmt.Errorf("sendmsg: %w", err)
	}
	unix.CloseOnExec(int(listener))
	unix.CloseOnExec(fd)
	os.Unsetenv(stageEnv)
	return fmt.Errorf("execute %s: %w", os.Args[1], syscall.Exec(os.Args[1], os.Args[2:], os.Environ()))
}

// notice and answer are struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type notice struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// listen answers until nobody is left under the filter.
func (f *FS) listen(fd int) {
	defer unix.Close(fd)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var in notice
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&in))); errno != 0 {
			continue // it was killed meanwhile
		}
		out := answer{id: in.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := f.Syncfs(); errno != 0 {
			out.errno, out.flags = -int32(errno), 0
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&out)))
	}
}
