// Brig runs OCI images without a daemon; package cli is its command line.
package main

import (
	"context"
	"os"

	"brig/internal/front/cli"
)

// newEngine makes the engine on the folders of a Brig.
var newEngine func(root, state string) cli.Engine

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.OSStreams(), newEngine))
}
