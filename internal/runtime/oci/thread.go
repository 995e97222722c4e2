package oci

import (
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// onThread runs f on a thread of its own, which is ended afterwards: it may leave the host's namespaces.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// The main thread is not ended but parked, and would keep the container's namespaces. While it is locked here another one is used.
		done <- onThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}

// homeNamespaces are those that a builder leaves. The namespaces of cgroups and users it never leaves.
var homeNamespaces = [...]struct {
	name string
	flag int
	kind specs.LinuxNamespaceType
}{
	{"mnt", unix.CLONE_NEWNS, specs.MountNamespace}, {"pid_for_children", unix.CLONE_NEWPID, specs.PIDNamespace},
	{"net", unix.CLONE_NEWNET, specs.NetworkNamespace}, {"ipc", unix.CLONE_NEWIPC, specs.IPCNamespace}, {"uts", unix.CLONE_NEWUTS, specs.UTSNamespace},
}

// thereAndBack runs f, which may leave the host's namespaces, on the calling thread, and brings it back. A thread that cannot come back must do nothing more: the
// error says so, and the program ends with it.
func thereAndBack(f func() error) error {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/", Err: err}
	}
	defer unix.Close(root)
	cwd, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: ".", Err: err}
	}
	defer unix.Close(cwd)
	var fds [len(homeNamespaces)]int
	for i := range homeNamespaces {
		path := "/proc/thread-self/ns/" + homeNamespaces[i].name
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	mask := unix.Umask(0) // builders change it, for themselves
	unix.Umask(mask)
	ferr := f()
	unix.Umask(mask)
	for i, fd := range fds {
		if err := unix.Setns(fd, homeNamespaces[i].flag); err != nil && !isHere(fd, homeNamespaces[i].kind) { // f may not have got away
			return lost(homeNamespaces[i].name, err, ferr)
		}
	}
	if err := enterRoot(root); err != nil {
		return lost("root", err, ferr)
	}
	if err := unix.Fchdir(cwd); err != nil {
		return lost("working directory", err, ferr)
	}
	return ferr
}

// lost is the error of a thread that has not come back; where f failed, as it does without the rights to leave, that is what is worth telling.
func lost(what string, err, ferr error) error {
	if ferr != nil {
		return ferr
	}
	return fmt.Errorf("back from the container's namespaces: %s: %w", what, err)
}
