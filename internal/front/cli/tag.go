package cli

import "github.com/spf13/cobra"

func (a *app) tag() *cobra.Command {
	return &cobra.Command{
		Use:               "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short:             "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Example:           "  brig tag app registry.example.com/team/app:1.0",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeImages,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.engine().Tag(cmd.Context(), args[0], args[1]) },
	}
}
