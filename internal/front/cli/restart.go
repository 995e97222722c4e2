package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) restart() *cobra.Command {
	onlyRunning := false
	p := picking(func(c *api.Container) bool { return !onlyRunning || running(c) })
	cmd := &cobra.Command{
		Use:               "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Restart one or more containers",
		Long:              "Restart one or more containers: each is stopped, if it runs, and started. One with --rm is not removed in between.",
		Example:           "  brig restart web\n  brig restart -t 2 -s INT web db\n  brig restart --running",
		ValidArgsFunction: a.completeContainers(nil),
	}
	f := cmd.Flags()
	options := stopFlags(f)
	p.allFlag(f, "a", "Restart all containers")
	f.BoolVar(&onlyRunning, "running", false, "Restart all running containers")
	p.latestFlag(f)
	p.filterFlag(f, "f")
	p.cidfileFlag(f)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if onlyRunning && len(args) == 0 {
			p.all = true
		}
		return p.args(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.each(cmd, a, args, func(name string) (string, error) { return name, a.engine().Restart(cmd.Context(), name, options()) })
	}
	return cmd
}
