// Command brig-oci is the OCI runtime: its command line, the shim that keeps a sandbox, and the init of a container with --init.
package main

import (
	"os"

	"brig/internal/front/oci"
)

func main() { os.Exit(oci.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
