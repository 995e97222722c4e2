package monitor

import (
	"cmp"
	"encoding/json"
	"io"
	"os"

	"brig/internal/runtime/microvm/kernel"
	"brig/internal/runtime/microvm/wire"
)

// readKernel is `brig-vm kernel`.
func readKernel() (int, error) {
	config, err := io.ReadAll(io.LimitReader(os.NewFile(wire.KernelConfigFD, "config"), 4<<20))
	if err != nil {
		return 1, err
	}
	if len(config) == 0 {
		config = nil
	}
	k, err := kernel.Read(os.Stdin, config, cmp.Or(os.Getenv(wire.ModulesVar), "/lib/modules"), os.Getenv(wire.LookVar) != "")
	if err != nil {
		return 1, err
	}
	if len(k.Lacks) == 0 && k.ELF != nil {
		if _, err := k.WriteTo(os.NewFile(wire.KernelOutFD, "kernel")); err != nil {
			return 1, err
		}
	}
	return 0, json.NewEncoder(os.Stdout).Encode(k)
}
