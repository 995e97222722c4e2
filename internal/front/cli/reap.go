package cli

import "github.com/spf13/cobra"

func (a *app) reap() *cobra.Command {
	return &cobra.Command{
		Use:     "reap ID",
		Short:   "Clean up after a container that ended",
		Long:    "Clean up after a container that ended with nobody there to do it. The container's shim executes this.",
		Example: "  brig reap 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		Hidden:  true,
		Args:    exactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.engine().Reap(cmd.Context(), args[0]) },
	}
}
