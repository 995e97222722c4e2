// Package initproc is the first process of a container that was given --init: it starts the command, passes signals on to it, reaps whatever
// orphans the container has, and ends with the command's status.
package initproc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	boundary "brig/internal/runtime"
)

// pause is the init of a pod's infra container: it reaps, and ends when it is asked to.
func pause(signals <-chan os.Signal) int {
	for sig := range signals {
		switch sig {
		case unix.SIGCHLD:
			reap(-1)
		case unix.SIGTERM, unix.SIGINT:
			return 0
		}
	}
	return 255
}

// Main runs args and returns the exit code for this process: the command's, 128+n after signal n, 127 and 126 where it cannot be executed.
func Main(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "brig-init: no command")
		return 125
	}
	if os.Getpid() != 1 { // in the host's PID namespace: orphans would go to the host's init
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			fmt.Fprintln(os.Stderr, "brig-init: adopting orphans:", err)
			return 125
		}
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	if args[0] == boundary.InitPause && len(args) == 1 {
		return pause(signals)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		fmt.Fprintf(os.Stderr, "brig-init: exec %s: %v\n", args[0], err)
		if errors.Is(err, fs.ErrPermission) {
			return 126
		}
		return 127
	}
	attr := &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if _, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err == nil { // a terminal: the command's group must be its foreground
		attr.Sys.Foreground, attr.Sys.Ctty = true, 0
	}
	child, err := os.StartProcess(path, args, attr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "brig-init: exec %s: %v\n", args[0], err)
		return 126
	}
	for sig := range signals {
		switch sig {
		case unix.SIGCHLD:
			if code, ended := reap(child.Pid); ended {
				return code
			}
		case unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG:
		default:
			child.Signal(sig)
		}
	}
	return 255
}

// reap takes every zombie and reports the command's exit code when it is among them.
func reap(command int) (code int, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return code, ended
		}
		if pid == command && (ws.Exited() || ws.Signaled()) {
			ended = true
			code = ws.ExitStatus()
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
		}
	}
}
