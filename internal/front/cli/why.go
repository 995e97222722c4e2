package cli

import "github.com/spf13/cobra"

func (a *app) why() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "why [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Say in one line why a container ended, or does not do what it should",
		Long: "Say in one line why a container ended: its command was done or failed, it wanted more memory than its limit, somebody stopped it, it crashed, its seccomp\n" +
			"profile forbade a system call, it was unhealthy, it could not be started.",
		Example:           "  brig why web\n  brig why --format '{{.Cause}}' web",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeContainers(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				w, err := a.engine().Why(cmd.Context(), name)
				if err != nil {
					return "", err
				}
				if format != "" {
					return "", printObject(a.streams.Stdout, format, w)
				}
				return w.Name + ": " + w.Text, nil
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}
