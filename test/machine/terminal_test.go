package machine

import (
	"os/exec"
	"testing"
	"time"
)

func TestTerminalTypesAndExpects(t *testing.T) {
	cmd := exec.Command("sh", "-c", `stty size; printf 'name? '; read -r n; stty size; echo "hello $n"; exit 3`)
	term, err := StartOnTerminal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	if err := term.Expect("24 80", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := term.Expect("name? ", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := term.Resize(30, 100); err != nil {
		t.Fatal(err)
	}
	if err := term.Type("brig\r"); err != nil {
		t.Fatal(err)
	}
	if err := term.Expect("30 100", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := term.Expect("hello brig", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := term.Expect("24 80", 50*time.Millisecond); err == nil {
		t.Error("expect matched what stands before the last match")
	}
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 3 {
		t.Errorf("exit code %d, want 3", got)
	}
}
