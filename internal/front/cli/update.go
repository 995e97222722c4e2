package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) update() *cobra.Command {
	var l api.Resources
	var policy api.RestartPolicy
	p := picking(nil)
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Update configuration of one or more containers",
		Long: "Update the limits, or the restart policy, of one or more containers. Those of a container that runs hold at once, and all survive its\n" +
			"next start. What is not named stays as it is.",
		Example:           "  brig update -m 512m --memory-swap 1g web\n  brig update --cpus 1.5 --pids-limit 100 web db",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(nil),
	}
	f := cmd.Flags()
	limitFlags(f, &l)
	parsed(f, "restart", "", "string", "Restart policy to apply when a container exits: no, always, unless-stopped, on-failure[:MAX]", assign(&policy, parseRestart))
	p.latestFlag(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		given := f.NFlag()
		if p.latest {
			given--
		}
		if given == 0 {
			return invalid(cmd, errors.New("you must provide one or more flags when using this command"))
		}
		if err := checkLimits(f, &l); err != nil {
			return invalid(cmd, err)
		}
		var restart *api.RestartPolicy
		if f.Changed("restart") {
			restart = &policy
		}
		return p.each(cmd, a, args, func(name string) (string, error) { return name, a.engine().Update(cmd.Context(), name, l, restart) })
	}
	return cmd
}
