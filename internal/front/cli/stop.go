package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// defaultStopTimeout is how many seconds a container that does not say has to end; docker's.
const defaultStopTimeout = 10

func (a *app) stop() *cobra.Command {
	var seconds int
	var signal string
	cmd := &cobra.Command{
		Use:               "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Stop one or more running containers",
		Long:              "Stop one or more running containers: each is sent its stop signal, and SIGKILL after a timeout.",
		Example:           "  brig stop web\n  brig stop -t 2 web db",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeContainers(running),
	}
	f := cmd.Flags()
	f.IntVarP(&seconds, "timeout", "t", 0, "Seconds to wait before killing the container (-1: forever; default its own, else 10)")
	f.IntVar(&seconds, "time", 0, "Seconds to wait before killing the container")
	_ = f.MarkHidden("time") // docker's old name
	f.StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var timeout *int
		if f.Changed("timeout") || f.Changed("time") {
			timeout = &seconds
		}
		return a.each(cmd.Context(), args, func(name string) (string, error) {
			if signal != "" {
				return name, a.stopBy(cmd.Context(), name, signal, timeout)
			}
			return name, a.engine().Stop(cmd.Context(), name, timeout)
		})
	}
	return cmd
}

// stopBy stops a container by another signal than its own.
func (a *app) stopBy(ctx context.Context, name, signal string, timeout *int) error {
	e := a.engine()
	c, err := e.Inspect(ctx, name)
	if err != nil || c.State.Status != api.StatusRunning {
		return err
	}
	seconds := defaultStopTimeout
	for _, t := range []*int{c.Spec.StopTimeout, timeout} {
		if t != nil {
			seconds = *t
		}
	}
	if err := e.Kill(ctx, c.ID, signal); err != nil {
		return err
	}
	limited := ctx
	if seconds >= 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	_, err = e.Wait(limited, c.ID)
	if limited.Err() == nil || ctx.Err() != nil {
		if errors.Is(err, api.NotFound) {
			return nil // --rm was faster
		}
		return err
	}
	now := 0
	return e.Stop(ctx, c.ID, &now)
}
