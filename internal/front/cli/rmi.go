package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) rmi() *cobra.Command {
	var force, all, ignore bool
	cmd := &cobra.Command{
		Use:               "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Remove one or more images",
		Example:           "  brig rmi debian:11\n  brig rmi $(brig images -q --filter dangling=true)",
		Args:              allOr(&all, minArgs(1)),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				images, err := a.engine().Images(cmd.Context())
				if err != nil {
					return err
				}
				for i := range images {
					args = append(args, first(images[i].Name, images[i].ID))
				}
			}
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				lines, err := a.engine().RemoveImage(cmd.Context(), name, force)
				if ignore && errors.Is(err, api.NotFound) {
					return "", nil
				}
				return strings.Join(lines, "\n"), err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Force removal of the image")
	f.BoolVarP(&all, "all", "a", false, "Remove all images")
	f.BoolVarP(&ignore, "ignore", "i", false, "Ignore images that do not exist")
	return cmd
}
