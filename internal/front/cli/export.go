package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) export() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:               "export [OPTIONS] CONTAINER",
		Short:             "Export a container's filesystem as a tar archive",
		Long:              "Write the whole root file system of a container, running or not, as a tar archive. Volumes are no part of it.",
		Example:           "  brig export -o web.tar web\n  brig export web | tar -x -C rootfs",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeContainer(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" && a.terminalOutput() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			return a.engine().Export(cmd.Context(), args[0], file, a.streams)
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}
