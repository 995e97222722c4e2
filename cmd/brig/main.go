// Command brig runs OCI images without a daemon.
// The lean programs are too short-lived to follow changes of a CPU quota, and reading it costs 0.1 ms at start.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"context"
	"os"

	"brig/internal/engine"
	"brig/internal/front/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.OSStreams(), func(o cli.Options) cli.Engine {
		return engine.New(o.Root, o.State, cli.Version).WithPolicy(o.Policy).WithStoreLimit(o.StoreLimit)
	}))
}
