// Package oci is the door of the OCI runtime command line, runc's: the same verbs, flags, output and exit codes, so that engines which call runc can
// call it instead. It goes straight to the runtime.
//
// # What is kept of a container
//
// A folder ROOT/ID, which the first to make it owns: config.json as it was when the container was created, state.json as soon as its process
// waits, start.sock until it has been started, and a lock that whoever changes the container holds. The process itself tells whether it
// lives. A folder without state.json is what a creator that was killed has left; the next create, or delete, removes it.
package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/runtime/boxed/join"
	"brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/initproc"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/probe"
	"brig/internal/runtime/shim"
)

// Version is set by the linker.
var Version = "dev"

// verb is one command.
type verb struct {
	name, args, help string
	flags            func() []flag // nil: none; a function, so that only those of the verb that runs are built
	firstArgEnds     bool          // what follows the first argument belongs to a command of the user's
	min, max         int           // how many arguments; max -1: any number
	run              func(c *call) (int, error)
}

// call is one command's invocation.
type call struct {
	globals
	values
	args                  []string
	rights                byte // of unprivileged: 'y', 'n', 0: not looked at yet
	preserve              int  // how many descriptors after the standard streams a process inherits
	stdin, stdout, stderr *os.File
}

// verbs in the order of runc's help. It is a function so that nothing is built before main.
func verbs() []verb {
	id := "CONTAINER"
	return []verb{
		{"checkpoint", id, "write a running container to files, and end it", checkpointFlags, false, 1, 1, checkpoint},
		{"create", id, "create a container", createFlags, false, 1, 1, create},
		{"delete", id, "delete what is kept of a container", deleteFlags, false, 1, 1, remove},
		{"events", id, "print a container's statistics and out-of-memory events", eventsFlags, false, 1, 1, events},
		{"exec", id + " COMMAND [ARG...]", "execute a process in a container", execFlags, true, 1, -1, execute},
		{"features", "", "print what this runtime can do, as JSON", nil, false, 0, 0, features},
		{"kill", id + " [SIGNAL]", "send a signal (default SIGTERM) to a container's first process", killFlags, false, 1, 2, kill},
		{"list", "", "list the containers below --root", listFlags, false, 0, 0, list},
		{"pause", id, "stop all processes of a container for a while", nil, false, 1, 1, pause},
		{"ps", id + " [PS OPTION...]", "list the processes of a container", psFlags, true, 1, -1, ps},
		{"restore", id, "make a container from a checkpoint and let it go on", restoreFlags, false, 1, 1, restore},
		{"resume", id, "let a paused container go on", nil, false, 1, 1, resume},
		{"run", id, "create a container, start it and wait for it", runFlags, false, 1, 1, run},
		{"spec", "", "write an example config.json", specFlags, false, 0, 0, spec},
		{"start", id, "execute the command of a container that was created", nil, false, 1, 1, start},
		{"state", id, "print the state of a container, as JSON", nil, false, 1, 1, state},
		{"update", id, "change the limits of a container", updateFlags, false, 1, 1, update},
	}
}

// Main runs one verb and returns the exit code.
func Main(argv []string, stdin, stdout, stderr *os.File) int {
	args := argv[1:]
	if len(args) > 0 {
		switch args[0] { // these are on the hot path
		case "shim":
			return reportKind(shim.Main(args[1:]), nil, stderr)
		case "init":
			return initproc.Main(args[1:])
		case wire.ArgExec:
			if argv[0] == wire.JoinPath {
				return join.Main(stderr)
			}
		case "probe":
			return probe.Main(args[1:])
		case oci.StageVerb:
			if len(args) == 2 {
				return report(oci.Stage(args[1]), nil, stderr)
			}
		}
	}
	c := &call{stdin: stdin, stdout: stdout, stderr: stderr}
	values, args, err := parse("brig-oci", globalFlags(), args, true)
	if err != nil {
		return report(err, nil, stderr)
	}
	c.globals = newGlobals(values)
	switch {
	case values.on("version"):
		fmt.Fprintf(stdout, "brig-oci version %s\nspec: %s\n", Version, specVersion)
		return 0
	case values.on("help"):
		usage(stdout)
		return 0
	case len(args) == 0:
		usage(stdout)
		return 0
	case args[0] == "help":
		return help(args[1:], stdout, stderr)
	}
	for _, v := range verbs() {
		if v.name == args[0] {
			return c.do(&v, args[1:])
		}
	}
	report(api.Errorf(api.InvalidArgument, "%q is not a command: see brig-oci --help", args[0]), &c.globals, stderr)
	return unknownVerb
}

// Exit codes of runc for errors of its own; 1 for all others.
const (
	unknownVerb = 3
	execFailed  = 255 // so that it is hardly taken for the command's
)

func (c *call) do(v *verb, argv []string) int {
	err := c.doVerb(v, argv)
	var end exitError
	if errors.As(err, &end) {
		return int(end)
	}
	code := report(err, &c.globals, c.stderr)
	if code != 0 && v.name == "exec" {
		return execFailed
	}
	return code
}

// exitError is how a container's process ended, which is how this one ends.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func (c *call) doVerb(v *verb, argv []string) error {
	flags := v.allFlags()
	var err error
	if c.values, c.args, err = parse(v.name, flags, argv, v.firstArgEnds); err != nil {
		return err
	}
	if c.on("help") {
		verbUsage(v, c.stdout)
		return nil
	}
	if len(c.args) < v.min || v.max >= 0 && len(c.args) > v.max {
		return api.Errorf(api.InvalidArgument, "%s takes %s: brig-oci %s [flags] %s", v.name, argCount(v), v.name, v.args)
	}
	if v.args != "" {
		if err := checkID(c.args[0]); err != nil {
			return err
		}
	}
	if err := c.check(); err != nil {
		return err
	}
	// What the caller has left open is nobody's by accident: neither a hook's nor the container's.
	if weak.FDs {
		// they stay
	} else if err := unix.CloseRange(firstFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil && err != unix.ENOSYS && err != unix.EINVAL {
		return os.NewSyscallError("close_range", err)
	}
	if find(flags, "preserve-fds") != nil {
		if c.preserve, err = c.preserved(); err != nil { // before this process opens any of its own
			return err
		}
	}
	if err := c.openLog(c.stderr); err != nil {
		return err
	}
	c.debugf("%s %q", v.name, argv)
	code, err := v.run(c)
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}

func (v *verb) allFlags() []flag {
	flags := []flag{{"help", "h", isBool, "show this help"}}
	if v.flags != nil {
		flags = append(flags, v.flags()...)
	}
	return flags
}

func deleteFlags() []flag {
	return []flag{{"force", "f", isBool, "kill it first if it runs, and be content if there is none"}}
}

func killFlags() []flag { return []flag{{"all", "a", isBool, "send it to all processes"}} }

func psFlags() []flag { return []flag{{"format", "f", isString, "table (default) or json"}} }

func argCount(v *verb) string {
	switch {
	case v.max == 0:
		return "no argument"
	case v.max == v.min:
		return fmt.Sprintf("exactly %d argument", v.min)
	case v.max < 0:
		return fmt.Sprintf("at least %d argument", v.min)
	}
	return fmt.Sprintf("%d to %d arguments", v.min, v.max)
}

// report prints an error, writes it to the log that an engine reads, and returns the exit code.
func report(err error, g *globals, stderr *os.File) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "brig-oci:", err)
	if g != nil {
		g.logError(err)
	}
	return 1
}

// reportKind is report with a shell's codes for a command that cannot be found or executed.
func reportKind(err error, g *globals, stderr *os.File) int {
	code := report(err, g, stderr)
	switch {
	case errors.Is(err, api.CommandNotFound):
		return 127
	case errors.Is(err, api.CommandNotRunnable):
		return 126
	}
	return code
}

func usage(w io.Writer) {
	fmt.Fprint(w, `brig-oci runs OCI bundles: folders with a config.json and a root file system.

Usage:
  brig-oci [flags] COMMAND [flags] [ARG...]

Commands:
`)
	for _, v := range verbs() {
		fmt.Fprintf(w, "  %-12s %s\n", v.name, v.help)
	}
	fmt.Fprint(w, `
Used by brig:
  shim DIR                       keep a sandbox
  init [--] COMMAND [ARG...]     be the first process of a container

Flags:
`)
	describe(w, globalFlags())
	fmt.Fprint(w, `
Examples:
  mkdir -p b/rootfs && tar -C b/rootfs -xf root.tar
  cd b && brig-oci spec && brig-oci run hello
`)
}

func help(args []string, stdout, stderr *os.File) int {
	if len(args) == 0 {
		usage(stdout)
		return 0
	}
	for _, v := range verbs() {
		if v.name == args[0] {
			verbUsage(&v, stdout)
			return 0
		}
	}
	return report(api.Errorf(api.InvalidArgument, "%q is not a command: see brig-oci --help", args[0]), nil, stderr)
}

func verbUsage(v *verb, w io.Writer) {
	fmt.Fprintf(w, "brig-oci %s: %s\n\nUsage:\n  brig-oci %s\n\nFlags:\n", v.name, v.help, strings.TrimSpace(v.name+" [flags] "+v.args))
	describe(w, v.allFlags())
}
