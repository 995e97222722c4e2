// Command brig runs OCI images without a daemon.
package main

import (
	"context"
	"os"

	"brig/internal/engine"
	"brig/internal/front/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.OSStreams(), func(root, state string) cli.Engine {
		return engine.New(root, state, cli.Version)
	}))
}
