package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

// The exit codes of Brig's own failures, docker's.
const (
	codeFailed     = 1
	codeBrig       = 125 // run: the failure is Brig's, not the command's; any command: flags that do not parse
	codeNotInvoked = 126
	codeNotFound   = 127
)

// exitError ends the program with code. Without err nothing is printed: it was said already, or it is a container's own code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is a command line that makes no sense as typed; it says where the right use is written.
type usageError struct {
	err  error
	use  string // usage line of the command; empty: not shown
	path string // the command: brig run
	code int    // 0: 1
}

func (e *usageError) Error() string {
	s := e.err.Error()
	if e.use != "" {
		s += "\n\nUsage:  " + e.use
	}
	return s + "\n\nRun '" + e.path + " --help' for more information"
}

func (e *usageError) Unwrap() error { return e.err }

// flagError is called by cobra for flags that do not exist or do not parse.
func flagError(cmd *cobra.Command, err error) error {
	return &usageError{err: refusedFlag(cmd, err), use: cmd.UseLine(), path: cmd.CommandPath(), code: codeBrig}
}

// invalid is a combination of flags that makes no sense, found after parsing: docker's 125 for run and create.
func invalid(cmd *cobra.Command, err error) error {
	return &usageError{err: err, path: cmd.CommandPath(), code: codeBrig}
}

// runError gives a failure of run its exit code and the pointer to help.
func runError(cmd *cobra.Command, err error) error {
	e := &exitError{code: codeBrig, err: fmt.Errorf("%w\n\nRun '%s --help' for more information", err, cmd.CommandPath())}
	switch {
	case errors.Is(err, api.CommandNotFound):
		e.code = codeNotFound
	case errors.Is(err, api.CommandNotRunnable):
		e.code = codeNotInvoked
	}
	return e
}

// minArgs and exactArgs are docker's complaints about a wrong number of arguments.
func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argsError(cmd, "at least "+count(n))
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		if n == 0 {
			return argsError(cmd, "no arguments")
		}
		return argsError(cmd, "at most "+count(n))
	}
}

func oneOrTwoArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 1 || len(args) == 2 {
		return nil
	}
	return argsError(cmd, "at least 1 and at most "+count(2))
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argsError(cmd, count(n))
	}
}

func count(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

func argsError(cmd *cobra.Command, wants string) error {
	verb := "requires"
	if wants == "no arguments" {
		verb = "accepts"
	}
	return &usageError{
		err: fmt.Errorf("'%s' %s %s", cmd.CommandPath(), verb, wants), use: cmd.UseLine(), path: cmd.CommandPath(),
	}
}

// each does verb on every name and goes on after a failure: that is printed, and the exit code is 1. What verb returns is printed
// unless empty.
func (a *app) each(ctx context.Context, names []string, verb func(name string) (string, error)) error {
	failed := false
	for _, name := range names {
		out, err := verb(name)
		if err == nil {
			if out != "" {
				a.printf("%s\n", out)
			}
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		a.complain(err)
		failed = true
	}
	if failed {
		return &exitError{code: codeFailed}
	}
	return nil
}

// report prints err and returns the exit code that it means.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	code := codeFailed
	var exit *exitError
	var use *usageError
	switch {
	case errors.As(err, &exit):
		code = exit.code
		if exit.err == nil {
			return code
		}
	case errors.As(err, &use) && use.code != 0:
		code = use.code
	}
	if sig := a.signals.first(); sig != 0 {
		code = signalCode(sig)
		if errors.Is(err, context.Canceled) {
			return code // the user knows why
		}
	}
	a.complain(err)
	return code
}

// complain prints err, under --debug with its kind and causes.
func (a *app) complain(err error) {
	a.errorf("%s", err)
	if !a.debug {
		return
	}
	if kind := api.KindOf(err); kind != "" {
		a.errorf("debug: kind: %s", string(kind))
	}
	a.causes(err, 0)
}

// causes prints the tree of errors that err wraps, a line each with its Go type.
func (a *app) causes(err error, depth int) {
	if err == nil {
		return
	}
	a.errorf("debug: %s%T: %s", strings.Repeat("  ", depth), err, strings.ReplaceAll(err.Error(), "\n", " "))
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case interface{ Unwrap() error }:
		a.causes(e.Unwrap(), depth+1)
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			a.causes(cause, depth+1)
		}
	}
}
