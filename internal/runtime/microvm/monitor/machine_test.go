package monitor

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// securebitsEnv tells a child of the test that it is to print what it was given.
const securebitsEnv = "BRIG_TEST_SECUREBITS"

func TestStartWithRights(t *testing.T) {
	bits := func() int {
		n, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if os.Getenv(securebitsEnv) != "" {
		fmt.Printf("has %d\n", bits())
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("secure bits are set by root")
	}
	var out bytes.Buffer
	c := exec.Command(os.Args[0], "-test.run=^TestStartWithRights$")
	c.Env, c.Stdout = append(os.Environ(), securebitsEnv+"=1"), &out
	if err := startWithRights(c); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(out.Bytes(), []byte("has 4\n")) {
		t.Errorf("the program says %q, not that it keeps its capabilities when it acts as another user", out.String())
	}
	if err := startWithRights(exec.Command("/nowhere")); err == nil {
		t.Error("a program that does not exist has started")
	}
	if bits() != 0 {
		t.Error("the test itself was given what the program was")
	}
}
