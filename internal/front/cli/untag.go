package cli

import "github.com/spf13/cobra"

func (a *app) untag() *cobra.Command {
	return &cobra.Command{
		Use:               "untag IMAGE [NAME[:TAG]...]",
		Short:             "Remove one or more names from an image, or all of them",
		Long:              "Remove the given names from an image, or all names it has. The image itself stays.",
		Example:           "  brig untag app\n  brig untag 0123456789ab app:old registry.example.com/team/app:old",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().Untag(cmd.Context(), args[0], args[1:])
		},
	}
}
