package nsfd

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is, as another process, the holder of what its first argument says, in the file of the second.
func TestMain(m *testing.M) {
	if os.Getenv("BRIG_NSFD_TEST") == "" {
		os.Exit(m.Run())
	}
	if err := hold(os.Args[1], os.Args[2]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	io.ReadAll(os.Stdin)
}

func hold(what, path string) error {
	runtime.LockOSThread()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	source := os.DevNull
	switch what {
	case "net":
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		source = "/proc/thread-self/ns/net"
	case "mnt":
		source = "/proc/thread-self/ns/mnt"
	}
	ns, err := unix.Open(source, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return Hold(int(file.Fd()), ns)
}

func TestFindNet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	file, err := os.Create(t.TempDir() + "/hub")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var here unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &here); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		ok   bool
	}{{"net", true}, {"mnt", false}, {"file", false}} {
		cmd := exec.Command("/proc/self/exe", c.what, file.Name())
		cmd.Env = append(os.Environ(), "BRIG_NSFD_TEST=1")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
			t.Fatal(line, err)
		}
		ns, ok := FindNet(int(file.Fd()))
		if ok != c.ok {
			t.Errorf("%s: %t", c.what, ok)
		}
		cmd.Process.Kill()
		cmd.Wait()
		in.Close()
		if ok {
			var there unix.Stat_t
			if err := unix.Fstat(ns, &there); err != nil || there.Ino == here.Ino {
				t.Error(there.Ino, err)
			}
			unix.Close(ns)
		}
		if _, ok := FindNet(int(file.Fd())); ok {
			t.Error("what nobody holds is found")
		}
	}
}
