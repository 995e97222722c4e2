package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"brig/api"
)

// ServeRegistry becomes brigd, which serves the store as a registry: it returns only when that fails. Whoever waits for this process, or
// sends it signals, has to do with brigd then.
func (e *Engine) ServeRegistry(_ context.Context, r api.RegistryRequest) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	program := sibling("brigd")
	err = syscall.Exec(program, []string{"brigd", "--root", e.root, "--state", e.state, "registry", string(data)}, os.Environ())
	return fmt.Errorf("starting %s, which holds the servers: %w", program, err)
}
