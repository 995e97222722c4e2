package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) logout() *cobra.Command {
	r := api.TransferRequest{Op: "logout"}
	cmd := &cobra.Command{
		Use:               "logout [SERVER]",
		Short:             "Log out from a registry",
		Long:              "Log out from a registry.\nIf no server is specified, the default is docker.io.",
		Example:           "  brig logout registry.example.com",
		Args:              maxArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.Server = args[0]
			}
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			if reply.Login == nil {
				return errors.New("logout: brig-image gave no answer")
			}
			l := reply.Login
			a.printf("Removing login credentials for %s\n", l.Server)
			if l.Failed != "" { // no failure, as for docker
				fmt.Fprintf(a.streams.Stderr, "WARNING: could not erase credentials:\n%s\n", l.Failed)
			}
			for _, file := range l.Others {
				fmt.Fprintf(a.streams.Stderr, "WARNING: %s still has credentials for %s: brig logout --authfile %s\n", file, l.Server, file)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&r.AuthFile, "authfile", "", "Credentials are in this file (default docker's; env REGISTRY_AUTH_FILE)")
	return cmd
}
