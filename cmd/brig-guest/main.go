// Command brig-guest is the first program in a virtual machine of isolation level vm. It is in the initial ramdisk; run anywhere else it says so and ends.
package main

import (
	"os"

	"brig/internal/runtime/microvm/guest"
)

func main() { os.Exit(guest.Main()) }
