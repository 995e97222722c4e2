// Command brig-vm is the monitor of isolation level vm: it runs a virtual machine in the box of a container, joins it for an exec, probes KVM, and looks
// into kernels.
package main

import (
	"os"

	"brig/internal/runtime/microvm/monitor"
)

func main() { os.Exit(monitor.Main(os.Args)) }
