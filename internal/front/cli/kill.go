package cli

import "github.com/spf13/cobra"

func (a *app) kill() *cobra.Command {
	signal := "KILL"
	p := picking(running)
	cmd := &cobra.Command{
		Use:               "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Kill one or more running containers",
		Example:           "  brig kill web\n  brig kill -s HUP web\n  brig kill --all",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.each(cmd, a, args, func(name string) (string, error) {
				return name, a.engine().Kill(cmd.Context(), name, signal)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&signal, "signal", "s", signal, "Signal to send to the container, by name or number")
	p.allFlag(f, "a", "Signal all running containers")
	p.latestFlag(f)
	p.cidfileFlag(f)
	return cmd
}
