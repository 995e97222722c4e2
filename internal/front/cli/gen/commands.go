package main

import (
	"os"
	"path/filepath"

	"brig/internal/front/cli/peers"
)

// commands writes the page of all verbs and flags. With ask it first makes the records anew, from the programs that are installed; records
// is their folder.
func commands(page, records string, ask bool) error {
	if ask {
		for _, program := range []string{"docker", "podman"} {
			verbs, err := peers.Ask(program)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(records, program+".txt"), []byte(peers.Format(verbs)), 0o644); err != nil {
				return err
			}
		}
		return nil // they are compiled in: the page needs another run
	}
	return os.WriteFile(page, []byte(peers.Markdown()), 0o644)
}
