package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) rm() *cobra.Command {
	var force, volumes bool
	var seconds int
	p := picking(nil)
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Remove one or more containers",
		Example:           "  brig rm box\n  brig rm -f -v web db\n  brig rm --all --filter status=exited",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(nil),
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	f.BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	f.IntVarP(&seconds, "time", "t", 0, "Seconds to wait before killing the container, with --force (-1: forever)")
	p.allFlag(f, "a", "Remove all containers")
	f.BoolVarP(&p.latest, "latest", "", false, "Act on the latest container that was created")
	p.filterFlag(f, "")
	p.cidfileFlag(f)
	p.ignoreFlag(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.Changed("time") && !force {
			return invalid(cmd, errors.New("--force must be given with --time"))
		}
		return p.each(cmd, a, args, func(name string) (string, error) {
			if f.Changed("time") {
				if err := a.engine().Stop(cmd.Context(), name, api.StopOptions{Timeout: &seconds}); err != nil && !errors.Is(err, api.NotFound) {
					return name, err
				}
			}
			err := a.engine().Remove(cmd.Context(), name, force, volumes)
			if force && errors.Is(err, api.NotFound) {
				a.complain(err) // said, but no failure: it is gone, as was asked
				return "", nil
			}
			return name, err
		})
	}
	return cmd
}
