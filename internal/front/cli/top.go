package cli

import (
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func (a *app) top() *cobra.Command {
	p := picking(running)
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS | DESCRIPTOR...]",
		Short: "Display the running processes of a container",
		Long: "Display the running processes of a container. Nothing is executed in it: what is shown the host's kernel knows. PIDs are the host's;\n" +
			"with descriptors, which are podman's, pid is the container's and hpid the host's.",
		Example:           "  brig top web\n  brig top web aux\n  brig top web -o pid,etime,args\n  brig top web pid,hpid,user,seccomp,capeff,comm",
		Args:              p.shifted(minArgs(1)),
		ValidArgsFunction: a.completeContainer(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, words, err := p.one(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			table, err := a.engine().Top(cmd.Context(), name, words)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.streams.Stdout, 20, 1, 3, ' ', 0) // docker's widths
			for _, row := range append([][]string{table.Titles}, table.Rows...) {
				if _, err := w.Write([]byte(strings.Join(row, "\t") + "\n")); err != nil {
					return err
				}
			}
			return w.Flush()
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CONTAINER is for ps
	p.latestFlag(f)
	return cmd
}
