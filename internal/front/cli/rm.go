package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) rm() *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Remove one or more containers",
		Example:           "  brig rm box\n  brig rm -f -v web db",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeContainers(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				err := a.engine().Remove(cmd.Context(), name, force, volumes)
				if force && errors.Is(err, api.NotFound) {
					a.complain(err) // said, but no failure: it is gone, as was asked
					return "", nil
				}
				return name, err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	f.BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	return cmd
}
