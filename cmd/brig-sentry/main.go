// Brig-sentry is what level gvisor runs in a box: the monitor, which Brig executes, and gVisor's own program, as which the monitor executes itself anew. Under another name it is that program
// alone, with all its commands: a link to it named runsc is a runsc.
package main

import (
	"os"
	"path/filepath"

	"gvisor.dev/gvisor/runsc/cli/maincli"

	"brig/cmd/brig-sentry/monitor"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "monitor", "brig-sentry":
		os.Exit(monitor.Main(os.Args[1:]))
	}
	maincli.Main()
}
