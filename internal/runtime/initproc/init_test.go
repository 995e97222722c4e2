package initproc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain is the init when it is asked to, so that Main has a process of its own to reap and be signalled in.
func TestMain(m *testing.M) {
	if os.Getenv("BRIG_TEST_INIT") == "1" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func TestExitCode(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("not a program"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		want int
	}{
		{"success", []string{"--", "true"}, 0},
		{"status", []string{"--", "sh", "-c", "exit 7"}, 7},
		{"without dashes", []string{"sh", "-c", "exit 255"}, 255},
		{"killed", []string{"--", "sh", "-c", "kill -KILL $$"}, 137},
		{"terminated", []string{"--", "sh", "-c", "kill -TERM $$"}, 143},
		{"signal passed on", []string{"--", "sh", "-c", "trap 'exit 9' USR1; kill -USR1 $PPID; while :; do sleep 0.02; done"}, 9},
		{"signal passed on kills", []string{"--", "sh", "-c", "kill -TERM $PPID; sleep 5"}, 143},
		{"another child ends first", []string{"--", "sh", "-c", "(exit 3) & wait; exit 4"}, 4},
		{"not there", []string{"--", "/no/such/command"}, 127},
		{"not in PATH", []string{"--", "no-such-command-here"}, 127},
		{"not executable", []string{"--", plain}, 126},
		{"not a program", []string{"--", broken}, 126},
		{"nothing", []string{"--"}, 125},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", tc.args...)
			cmd.Env = append(os.Environ(), "BRIG_TEST_INIT=1")
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != tc.want {
				t.Errorf("exit code %d, want %d", got, tc.want)
			}
		})
	}
}
