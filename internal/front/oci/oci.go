// Package oci is the door of the OCI runtime command line, runc's. It goes straight to the runtime.
package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"brig/api"
	"brig/internal/runtime/initproc"
	"brig/internal/runtime/shim"
)

const usage = `brig-oci runs OCI bundles.

Usage:
  brig-oci [--root DIR] run [-b DIR] ID      run a bundle and wait for it
  brig-oci spec                              write a config.json
  brig-oci --version

Used by brig:
  brig-oci shim DIR                          keep a sandbox
  brig-oci init [--] COMMAND [ARG...]        first process of a container

Examples:
  mkdir -p b/rootfs && tar -C b/rootfs -xf root.tar
  cd b && brig-oci spec && brig-oci run hello
`

// Version is set by the linker.
var Version = "dev"

// Main runs one verb and returns the exit code.
func Main(argv []string, stdin, stdout, stderr *os.File) int {
	args := argv[1:]
	if len(args) > 0 {
		switch args[0] { // these two are on the hot path
		case "shim":
			return report(shim.Main(args[1:]), stderr)
		case "init":
			return initproc.Main(args[1:])
		}
	}
	g := globals{root: "/run/brig-oci"}
	args, err := g.parse(args)
	if err != nil {
		return report(err, stderr)
	}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 1
	}
	switch args[0] {
	case "help", "--help", "-h":
		fmt.Fprint(stdout, usage)
		return 0
	case "--version", "-v", "version":
		fmt.Fprintf(stdout, "brig-oci version %s\nspec: 1.3.0\n", Version)
		return 0
	case "spec":
		return report(writeSpec(args[1:]), stderr)
	case "run":
		code, err := run(&g, args[1:], [3]*os.File{stdin, stdout, stderr})
		if err != nil {
			return report(err, stderr)
		}
		return code
	}
	return report(api.Errorf(api.InvalidArgument, "%q is not a command of this version: see brig-oci help", args[0]), stderr)
}

// globals are the flags before the verb.
type globals struct {
	root string
}

func (g *globals) parse(args []string) ([]string, error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") && args[0] != "--version" && args[0] != "--help" {
		name, value, ok := strings.Cut(args[0], "=")
		if name != "--root" {
			return nil, api.Errorf(api.InvalidArgument, "flag %s is not known to this version: see brig-oci help", name)
		}
		args = args[1:]
		if !ok {
			if len(args) == 0 {
				return nil, api.Errorf(api.InvalidArgument, "flag --root needs a folder")
			}
			value, args = args[0], args[1:]
		}
		g.root = value
	}
	return args, nil
}

// report prints an error and returns its exit code: runc says 1 for everything of its own.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "brig-oci:", err)
	switch {
	case errors.Is(err, api.CommandNotFound):
		return 127
	case errors.Is(err, api.CommandNotRunnable):
		return 126
	}
	return 1
}
