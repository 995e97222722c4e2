package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) containerExists() *cobra.Command {
	return a.exists("container", a.completeContainers(nil), func(ctx context.Context, name string) error {
		_, err := a.engine().Inspect(ctx, name)
		return err
	})
}

func (a *app) imageExists() *cobra.Command {
	return a.exists("image", a.completeImages, func(ctx context.Context, name string) error {
		_, err := a.engine().InspectImage(ctx, name)
		return err
	})
}

// exists makes podman's verb that answers by its exit code: 0, or 1 where there is no such thing, about which nothing is said.
func (a *app) exists(kind string, complete completer, look func(context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:               "exists " + kind,
		Short:             "Tell by the exit code whether there is such a " + kind + ": 0, or 1",
		Example:           "  brig " + kind + " exists NAME",
		Args:              exactArgs(1),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := look(cmd.Context(), args[0])
			if errors.Is(err, api.NotFound) {
				return &exitError{code: codeFailed}
			}
			return err
		},
	}
}
