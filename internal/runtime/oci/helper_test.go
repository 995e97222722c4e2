package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// helperEnv makes the test binary, run as a container's process, the helper that tells what it is.
const helperEnv = "BRIG_TEST_HELPER"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == StageVerb { // the runtime executes itself to build a container in a user namespace
		if err := Stage(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(helperEnv) == "" {
		if os.Geteuid() == 0 {
			if err := machine.Private(false); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	if err := help(os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
}

// told is what the helper says of itself.
type told struct {
	Sched     unix.SchedAttr
	IO        int
	CPUs      string // of /proc/self/status
	Nodes     uint64
	Policy    int
	Persona   uint32
	Machine   string
	OOM       string
	Umask     int
	Keyring   string // as keyctl(KEYCTL_DESCRIBE) has it
	TimeNS    string
	Monotonic int64 // seconds
	Boottime  int64
	NoNewPriv int
	Rlimit    unix.Rlimit // RLIMIT_NOFILE
	CapAmb    string
	CapBnd    string
	CapPrm    string
	PID       int
}

// help runs one command of the helper.
func help(args []string) error {
	runtime.LockOSThread()
	switch args[0] {
	case "tell":
		t, err := tell()
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(t)
	case "mkdir":
		if err := os.Mkdir(args[1], 0o755); err != nil {
			return err
		}
		st, err := os.Stat(args[1])
		if err != nil {
			return err
		}
		fmt.Printf("%s is a folder: %v\n", args[1], st.IsDir())
		return nil
	case "errno": // of calls whose answer a filter decides
		for _, c := range [][4]uintptr{{unix.SYS_GETSID, 0}, {unix.SYS_GETSID, 40}, {unix.SYS_GETSID, 91}, {unix.SYS_GETPGID, 0}, {unix.SYS_GETPGID, 0x1f}} {
			_, _, e := unix.RawSyscall(c[0], c[1], c[2], c[3])
			fmt.Print(int(e), " ")
		}
		return nil
	case "sleep":
		fmt.Println("asleep")
		time.Sleep(time.Minute)
		return nil
	}
	return errors.New("unknown command")
}

func tell() (*told, error) {
	t := &told{PID: os.Getpid()}
	a, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return nil, fmt.Errorf("sched_getattr: %w", err)
	}
	t.Sched = *a
	io, _, e := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	if e != 0 {
		return nil, fmt.Errorf("ioprio_get: %w", e)
	}
	t.IO = int(io)
	var policy int32
	var nodes [1024 / 64]uint64
	if _, _, e := unix.RawSyscall6(unix.SYS_GET_MEMPOLICY, uintptr(unsafe.Pointer(&policy)), uintptr(unsafe.Pointer(&nodes)), 1024, 0, 0, 0); e != 0 {
		return nil, fmt.Errorf("get_mempolicy: %w", e)
	}
	t.Policy, t.Nodes = int(policy), nodes[0]
	p, _, _ := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	t.Persona = uint32(p)
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	t.Machine = unix.ByteSliceToString(uts.Machine[:])
	oom, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil, err
	}
	t.OOM = strings.TrimSpace(string(oom))
	t.Umask = unix.Umask(0)
	var desc [256]byte
	n, _, e := unix.RawSyscall6(unix.SYS_KEYCTL, unix.KEYCTL_DESCRIBE, ^uintptr(2), uintptr(unsafe.Pointer(&desc)), uintptr(len(desc)), 0, 0) // -3: KEY_SPEC_SESSION_KEYRING
	if e != 0 {
		return nil, fmt.Errorf("keyctl: %w", e)
	}
	t.Keyring = strings.TrimRight(string(desc[:n]), "\x00")
	if t.TimeNS, err = os.Readlink("/proc/self/ns/time"); err != nil {
		return nil, err
	}
	t.Monotonic, t.Boottime = clock(unix.CLOCK_MONOTONIC), clock(unix.CLOCK_BOOTTIME)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch key {
		case "Cpus_allowed_list":
			t.CPUs = value
		case "NoNewPrivs":
			fmt.Sscan(value, &t.NoNewPriv)
		case "CapAmb":
			t.CapAmb = value
		case "CapBnd":
			t.CapBnd = value
		case "CapPrm":
			t.CapPrm = value
		}
	}
	return t, unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &t.Rlimit)
}

func clock(id int32) int64 {
	var ts unix.Timespec
	unix.ClockGettime(id, &ts)
	return ts.Sec
}

// helperRoot makes a root file system with nothing in it but places to mount on; the helper is bound into it.
func helperRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"proc", "tmp", "dev"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
