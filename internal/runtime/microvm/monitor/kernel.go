package monitor

import (
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
	k, err := kernel.Read(os.Stdin, config)
	if err != nil {
		return 1, err
	}
	if len(k.Lacks) == 0 {
		if _, err := os.NewFile(wire.KernelOutFD, "kernel").Write(k.ELF); err != nil {
			return 1, err
		}
	}
	return 0, json.NewEncoder(os.Stdout).Encode(k)
}
