package cli

import (
	"context"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) pause() *cobra.Command {
	cmd := a.pauseCommand(notPaused, "pause", func(ctx context.Context, name string) error { return a.engine().Pause(ctx, name) })
	cmd.Short = "Pause all processes within one or more containers"
	cmd.Example = "  brig pause web\n  brig pause --all"
	return cmd
}

func (a *app) unpause() *cobra.Command {
	cmd := a.pauseCommand(paused, "unpause", func(ctx context.Context, name string) error { return a.engine().Unpause(ctx, name) })
	cmd.Short = "Unpause all processes within one or more containers"
	cmd.Example = "  brig unpause web\n  brig unpause --all"
	return cmd
}

// pauseCommand is what pause and unpause have in common.
func (a *app) pauseCommand(state func(*api.Container) bool, verb string, do func(context.Context, string) error) *cobra.Command {
	p := picking(state)
	cmd := &cobra.Command{
		Use:               verb + " [OPTIONS] CONTAINER [CONTAINER...]",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(state),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.each(cmd, a, args, func(name string) (string, error) { return name, do(cmd.Context(), name) })
		},
	}
	f := cmd.Flags()
	p.allFlag(f, "a", "Act on all containers that can be "+verb+"d")
	p.latestFlag(f)
	p.filterFlag(f, "f")
	p.cidfileFlag(f)
	return cmd
}
