package network

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"brig/internal/kernel/netlink"
	"brig/test/machine"

	"golang.org/x/sys/unix"
)

// inside is set in the process that runs the tests, which lives in a network namespace and a mount namespace of its own: links, rules and
// sysctls that the tests make are not the host's, and they are gone when that process is.
const inside = "BRIG_NETWORK_TEST"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(inside) == "helper":
		os.Exit(helper(os.Args[1:]))
	case os.Getenv(inside) != "":
		if err := private(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Println("SKIP: the tests of network links need root, to make network namespaces")
		os.Exit(0)
	}
	runtime.LockOSThread()      // the child shall die with this process, and the kernel takes that for this thread
	signal.Ignore(os.Interrupt) // it reaches the child too, and the child's end ends us
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Println("SKIP: no network namespace:", err)
			os.Exit(0)
		}
		os.Exit(1)
	}
}

// private keeps mounts to this process and takes lo into service.
func private() error {
	if err := machine.CutOffMounts(); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=700"); err != nil { // as the state folder is in memory in real life
		return fmt.Errorf("tmpfs for the state: %w", err)
	}
	os.Setenv("TMPDIR", "/run")
	for _, f := range []string{"iptables", "ip6tables"} { // on from the start in each namespace, where it is built in
		if err := setSysctl("bridge/bridge-nf-call-"+f, "0"); err != nil {
			return err
		}
	}
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer rt.Close()
	return loopback(rt)
}
