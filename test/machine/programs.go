package machine

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// BinEnv names the folder of Brig's programs that are tested.
const BinEnv = "BRIG_TEST_BIN"

// Programs lets BinEnv, where it is not set, name the folder bin, relative to the test's.
func Programs(bin string) error {
	dir, err := filepath.Abs(cmp.Or(os.Getenv(BinEnv), bin))
	if err != nil {
		return err
	}
	return os.Setenv(BinEnv, dir)
}

// Program is one of Brig's programs.
func Program(name string) string { return filepath.Join(os.Getenv(BinEnv), name) }

// Command prepares a brig of a root and a state folder.
func Command(root, state string, args ...string) *exec.Cmd {
	cmd := exec.Command(Program("brig"), args...)
	cmd.Env = append(os.Environ(), "BRIG_ROOT="+root, "BRIG_STATE="+state)
	return cmd
}

// Result is how a command ended.
type Result struct {
	Out, Err string
	Code     int
}

func (r Result) String() string { return fmt.Sprintf("code %d, out %q, err %q", r.Code, r.Out, r.Err) }

// Run runs a command to its end, for which it has some time. start is cmd.Start, or what stands for it. An error says that there was no end, or a panic.
func Run(cmd *exec.Cmd, patience time.Duration, start func() error) (Result, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	what := strings.Join(cmd.Args, " ")
	if err := start(); err != nil {
		return Result{}, fmt.Errorf("%s: %w", what, err)
	}
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	cmd.Wait() //nolint:errcheck // it is in the exit code
	r := Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	switch {
	case !late.Stop():
		return r, fmt.Errorf("%s: no end after %s", what, patience)
	case strings.Contains(r.Err, "panic:") || strings.Contains(r.Err, "goroutine "):
		return r, fmt.Errorf("%s: %s", what, r)
	}
	return r, nil
}
