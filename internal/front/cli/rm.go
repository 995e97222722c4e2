package cli

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) rm() *cobra.Command {
	var force, volumes, depend bool
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
	f.BoolVar(&depend, "depend", false, "Remove the containers that depend on the container too")
	f.BoolVarP(&p.latest, "latest", "", false, "Act on the latest container that was created")
	p.filterFlag(f, "")
	p.cidfileFlag(f)
	p.ignoreFlag(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.Changed("time") && !force {
			return invalid(cmd, errors.New("--force must be given with --time"))
		}
		if depend {
			var err error
			if args, err = a.withDependents(cmd, p, args); err != nil {
				return err
			}
			p = picking(nil) // they are all named now
		}
		return p.each(cmd, a, args, func(name string) (string, error) {
			stopped := false
			if f.Changed("time") {
				err := a.engine().Stop(cmd.Context(), name, api.StopOptions{Timeout: &seconds})
				if err != nil && !errors.Is(err, api.NotFound) {
					return name, err
				}
				stopped = err == nil
			}
			err := a.engine().Remove(cmd.Context(), name, force, volumes)
			if stopped && errors.Is(err, api.NotFound) { // it had --rm
				err = nil
			}
			if force && errors.Is(err, api.NotFound) {
				a.complain(err) // said, but no failure: it is gone, as was asked
				return "", nil
			}
			return name, err
		})
	}
	return cmd
}

// withDependents are the containers that p picks, each behind those that join a namespace of it, require it, or have its mounts.
func (a *app) withDependents(cmd *cobra.Command, p *pick, args []string) (ids []string, err error) {
	names, err := p.names(cmd.Context(), a, args)
	if err != nil {
		return nil, err
	}
	all, err := a.engine().List(cmd.Context())
	if err != nil {
		return nil, err
	}
	var add func(id string)
	add = func(id string) {
		if slices.Contains(ids, id) {
			return
		}
		for i := range all {
			if all[i].ID != id && dependsOn(&all[i], id) {
				add(all[i].ID)
			}
		}
		ids = append(ids, id)
	}
	for _, name := range names {
		if c, err := find(all, name); err == nil {
			add(c.ID)
		} else {
			ids = append(ids, name) // it is complained about when its turn comes
		}
	}
	return ids, nil
}

func dependsOn(c *api.Container, id string) bool {
	s, join := &c.Spec, api.NamespaceContainer+id
	return s.Network.Mode == join || s.Namespaces.PID == join || s.Namespaces.IPC == join || s.Namespaces.UTS == join || s.Namespaces.CgroupNS == join ||
		slices.Contains(s.Requires, id) || slices.Contains(s.VolumesFrom, id) || slices.Contains(s.VolumesFrom, id+":ro")
}
