package cli

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) system() *cobra.Command {
	c := &cobra.Command{
		Use:     "system COMMAND",
		Short:   "Manage Brig",
		Example: "  brig system df\n  brig system prune --all\n  brig system check",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.systemDf(), a.systemPrune(), a.systemCheck(), a.systemLimit(), a.systemReset())
	return c
}

func (a *app) systemReset() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:     "reset [OPTIONS]",
		Short:   "Remove all containers, images, volumes and the network of this root and state",
		Example: "  brig --root /tmp/r --state /tmp/s system reset --force",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				fmt.Fprintf(a.streams.Stderr, "This removes all containers, images and volumes in %s. Are you sure? [y/N] ", a.options.Root)
				answer, _ := bufio.NewReader(a.streams.Stdin).ReadString('\n')
				if s := strings.ToLower(strings.TrimSpace(answer)); s != "y" && s != "yes" {
					return fmt.Errorf("nothing was removed: answer y, or use --force")
				}
			}
			return a.engine().Reset(cmd.Context())
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	return c
}
