package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) rmi() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Remove one or more images",
		Example:           "  brig rmi debian:11\n  brig rmi $(brig images -q --filter dangling=true)",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				lines, err := a.engine().RemoveImage(cmd.Context(), name, force)
				return strings.Join(lines, "\n"), err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	return cmd
}
