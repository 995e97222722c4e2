// Command brig-oci is the OCI runtime: its command line, the shim that keeps a sandbox, and the init of a container with --init.
// The lean programs are too short-lived to follow changes of a CPU quota, and reading it costs 0.1 ms at start.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"brig/internal/front/oci"
)

func main() { os.Exit(oci.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
