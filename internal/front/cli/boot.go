package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) boot() *cobra.Command {
	var stop bool
	cmd := &cobra.Command{
		Use:   "boot [OPTIONS]",
		Short: "Start the containers that should run after a boot",
		Long: "Start the containers whose restart policy says that they run after a boot: always; unless-stopped, but for those that were stopped by hand;\n" +
			"on-failure, those that had failed or were cut off. It is what the one unit brig-boot.service executes, once, for all containers.\n\n" +
			"With --stop it is the other way round: all containers are stopped in their own time, and the next boot starts them again.",
		Example: "  brig boot\n  brig boot --stop\n  systemctl enable --now brig-boot",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			failed := false
			each := func(c api.Container, err error) {
				if err != nil {
					failed = true
					a.complain(err)
					return
				}
				a.printf("%s\n", c.Name)
			}
			do := a.engine().Boot
			if stop {
				do = a.engine().Shutdown
			}
			if err := do(cmd.Context(), each); err != nil && !failed {
				return err
			}
			if failed {
				return &exitError{code: codeFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&stop, "stop", false, "Stop all containers, to be started again by the next boot")
	return cmd
}
