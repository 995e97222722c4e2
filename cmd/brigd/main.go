// Command brigd holds Brig's servers: doors that stay open, which bring what a command that is soon over shall not link. `brig` becomes it
// by execve, so that signals, streams and the exit code are brigd's own.
//
//	brigd [--root DIR] [--state DIR] SERVER REQUEST
//
// SERVER is registry or metrics, REQUEST its api.RegistryRequest or api.MetricsRequest as JSON. SIGINT and SIGTERM end a server, which finishes what is under way; then the
// exit status is 0. It is 1 after a failure, 125 for a request that brig would not make. No container needs brigd: it may be stopped and updated at any time.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"brig/api"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("brigd", flag.ContinueOnError)
	root := flags.String("root", "/var/lib/brig", "durable `folder`")
	state := flags.String("state", "/run/brig", "boot-lived `folder`")
	if err := flags.Parse(args); err != nil {
		return 125
	}
	err := serve(ctx, *root, *state, flags.Args())
	if err == nil {
		return 0
	}
	logf("%v", err)
	var wrong *requestError
	if errors.As(err, &wrong) {
		return 125
	}
	return 1
}

// requestError is a request that brig would not make.
type requestError struct{ error }

// serve starts the server that is asked for, and returns when it has ended.
func serve(ctx context.Context, root, state string, args []string) error {
	if len(args) != 2 {
		return &requestError{api.Errorf(api.InvalidArgument, "brigd: want two arguments, a server and its request as JSON: brig starts it, users need not")}
	}
	switch args[0] {
	case "registry":
		var request api.RegistryRequest
		if err := json.Unmarshal([]byte(args[1]), &request); err != nil {
			return &requestError{api.Errorf(api.InvalidArgument, "brigd: request: %w", err)}
		}
		return serveRegistry(ctx, root, request)
	case "metrics":
		var request api.MetricsRequest
		if err := json.Unmarshal([]byte(args[1]), &request); err != nil {
			return &requestError{api.Errorf(api.InvalidArgument, "brigd: request: %w", err)}
		}
		return serveMetrics(ctx, root, state, request)
	}
	return &requestError{api.Errorf(api.InvalidArgument, "brigd: %q is no server; want registry or metrics", args[0])}
}

// logf tells the user something.
func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "brig: "+format+"\n", args...) }
