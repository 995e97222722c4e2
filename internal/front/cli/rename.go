package cli

import "github.com/spf13/cobra"

func (a *app) rename() *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NEW_NAME",
		Short:             "Rename a container",
		Example:           "  brig rename web web-old",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeContainer(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().Rename(cmd.Context(), args[0], args[1])
		},
	}
}
