package cli

import "github.com/spf13/cobra"

func (a *app) kill() *cobra.Command {
	signal := "KILL"
	cmd := &cobra.Command{
		Use:               "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Kill one or more running containers",
		Example:           "  brig kill web\n  brig kill -s HUP web",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				return name, a.engine().Kill(cmd.Context(), name, signal)
			})
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", signal, "Signal to send to the container, by name or number")
	return cmd
}
