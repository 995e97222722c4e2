package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openerVar makes the test program a stand-in for QEMU.
const openerVar = "BRIG_TEST_OPENER"

func TestMain(m *testing.M) {
	if os.Getenv(openerVar) != "" {
		if err := opener(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// opener opens the machine's memory as QEMU does, and tries to do more.
func opener() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("another file: %w", err)
	}
	unix.Close(null)
	fd, err := unix.Open(memoryName, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err != unix.EBADF {
		return fmt.Errorf("it can be written to: %v", err)
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != unix.EACCES {
		return fmt.Errorf("it can be mapped for all: %v", err)
	}
	b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	b[0] = 'P'
	if !bytes.HasPrefix(b, []byte("Pemplate")) {
		return fmt.Errorf("what is there is %q", b[:8])
	}
	fmt.Printf("%p\n", &b[0])
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if string(b[:8]) != "Private!" {
		return fmt.Errorf("what was written there is not seen: %q", b[:8])
	}
	for _, path := range []string{memoryName, os.DevNull, fmt.Sprintf("/proc/self/fd/%d", fd)} {
		if _, err := unix.Open(path, unix.O_RDWR, 0); err == nil {
			return fmt.Errorf("%s is opened for writing", path)
		}
	}
	return nil
}

// TestPrivateMemory: QEMU has the template's memory as if it were its own, the monitor sees what it has, and neither can write to the template.
func TestPrivateMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it starts a process of another user's: run it as root")
	}
	path := filepath.Join(t.TempDir(), "memory")
	content := "template" + strings.Repeat("\x00", 4088)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	c := exec.Command("/proc/self/exe")
	c.Env, c.Dir, c.Stderr = []string{openerVar + "=1"}, "/", os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: qemuUser, Gid: qemuUser}}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := asking(c.Start)
	if err != nil {
		t.Fatal(err)
	}
	all, err := giveMemory(listener, c.Process.Pid, memory)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	var at int64
	if _, err := fmt.Fscanf(out, "0x%x\n", &at); err != nil {
		said, _ := io.ReadAll(out)
		t.Fatalf("%v; it says %q", err, said)
	}
	b := make([]byte, 8)
	if _, err := all.ReadAt(b, at); err != nil || string(b) != "Pemplate" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := all.WriteAt([]byte("Private!"), at); err != nil {
		t.Error(err)
	}
	in.Close()
	said, _ := io.ReadAll(out)
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	if got, err := os.ReadFile(path); string(got) != content {
		t.Errorf("the template is %.8q, %v", got, err)
	}
}

// TestNobodyAsks: a QEMU that ends before it asks is not waited for.
func TestNobodyAsks(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a filter is installed: run it as root")
	}
	c := exec.Command("/bin/true")
	listener, err := asking(c.Start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := giveMemory(listener, c.Process.Pid, os.Stdin); err == nil {
		t.Error("it was given")
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := asking(func() error { return os.ErrNotExist }); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
