package cli

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) system() *cobra.Command {
	return a.group("system", "Manage Brig", "  brig system df\n  brig system prune --all\n  brig system check", []member{
		{name: "check", construct: (*app).systemCheck}, {name: "df", construct: (*app).systemDf}, {name: "events", top: "events"}, {name: "info", top: "info"},
		{name: "limit", construct: (*app).systemLimit}, {name: "prune", construct: (*app).systemPrune}, {name: "reset", construct: (*app).systemReset},
	})
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
