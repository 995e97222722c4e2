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
	return e.become("registry", r)
}

// Metrics becomes brigd, which tells what containers and the store use.
func (e *Engine) Metrics(_ context.Context, r api.MetricsRequest) error {
	r.Version = e.version
	return e.become("metrics", r)
}

// become executes brigd, to be this server, in the process's place.
func (e *Engine) become(server string, request any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	program := sibling("brigd")
	err = syscall.Exec(program, []string{"brigd", "--root", e.root, "--state", e.state, server, string(data)}, os.Environ())
	return fmt.Errorf("starting %s, which holds the servers: %w", program, err)
}
