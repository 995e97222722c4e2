package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) wait() *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER [CONTAINER...]",
		Short:             "Block until one or more containers stop, then print their exit codes",
		Example:           "  brig wait job",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				exit, err := a.engine().Wait(cmd.Context(), name)
				return strconv.Itoa(exit.Code), err
			})
		},
	}
}
