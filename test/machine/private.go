// Package machine keeps tests and benchmarks from the machine that they run on.
//
// Private moves a test program into namespaces of its own, so that bridges, firewall tables, mounts and processes that it makes are
// never the machine's and end with it. Snapshot tells what is there, so that a test can prove that it left nothing behind; control
// groups are the one thing here that the kernel does not take away with the namespaces.
package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/internal/base/lock"
)

// stageEnv tells a re-executed program how far it is: "init" in the namespaces' first process, "inside" in the program itself.
const stageEnv = "BRIG_TEST_STAGE"

// Private runs the rest of the program in a network, mount and PID namespace of its own, and does not return in the process that
// called it first. With network false the namespace has a loopback interface only; with network true it is the machine's own
// network that the program sees. Root is needed.
func Private(network bool) error {
	switch os.Getenv(stageEnv) {
	case "inside":
		return nil
	case "init":
		if os.Getpid() != 1 {
			return fmt.Errorf("%s=init outside of a fresh PID namespace", stageEnv)
		}
		os.Exit(runInit(network))
	}
	// Control groups are the machine's, whatever the namespaces: one test program at a time, or each finds the other's.
	turn, err := lock.Take(filepath.Join(os.TempDir(), "brig-test-machine.lock"))
	if err != nil {
		return err
	}
	defer turn.Release()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageEnv+"=init")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID)
	if !network {
		flags |= unix.CLONE_NEWNET
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make private namespaces: %w", err)
	}
	forward(cmd.Process.Pid)
	os.Exit(exitCode(cmd.Wait()))
	return nil
}

// Inside reports whether the program has been moved, or is about to be: false only in the process that calls Private first.
func Inside() bool { return os.Getenv(stageEnv) != "" }

// runInit is the first process of the namespaces: it lays them out, starts the program and reaps what the program orphans.
func runInit(network bool) int {
	if err := layOut(network); err != nil {
		fmt.Fprintln(os.Stderr, "private namespaces:", err)
		return 1
	}
	if err := os.Setenv(stageEnv, "inside"); err != nil {
		fmt.Fprintln(os.Stderr, "private namespaces:", err)
		return 1
	}
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "private namespaces:", err)
		return 1
	}
	forward(child.Pid)
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			fmt.Fprintln(os.Stderr, "private namespaces: wait:", err)
			return 1
		case pid == child.Pid && status.Signaled():
			return 128 + int(status.Signal())
		case pid == child.Pid:
			return status.ExitStatus()
		}
	}
}

// layOut gives the new namespaces their own /proc, a /sys that shows their network, and a loopback interface.
func layOut(network bool) error {
	if err := CutOffMounts(); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if network {
		return nil
	}
	if err := freshSys(); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return plainBridge()
}

// plainBridge turns br_netfilter off in this network namespace, where it stands for every new one on a machine whose Docker has loaded it.
func plainBridge() error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		err := os.WriteFile("/proc/sys/net/bridge/"+name, []byte("0"), 0)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// freshSys puts a sysfs of this network namespace at /sys and keeps the control group hierarchies that are mounted below the old one.
func freshSys() error {
	dir, err := os.MkdirTemp("", "sys")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	if err := unix.Mount("/sys/fs/cgroup", filepath.Join(dir, "fs/cgroup"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep /sys/fs/cgroup: %w", err)
	}
	if err := unix.Mount(dir, "/sys", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move sysfs: %w", err)
	}
	return nil
}

// forward hands the signals that end a program to process pid.
func forward(pid int) {
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	go func() {
		for sig := range ch {
			_ = unix.Kill(pid, sig.(syscall.Signal))
		}
	}()
}

func exitCode(err error) int {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		return ee.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "private namespaces:", err)
		return 1
	}
}
