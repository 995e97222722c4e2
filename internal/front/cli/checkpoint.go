package cli

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

// podmansName is that of the one checkpoint that a container has for podman's verbs.
const podmansName = "checkpoint"

func (a *app) checkpointGroup() *cobra.Command {
	return a.group("checkpoint", "Manage checkpoints", "  brig checkpoint create web warm\n  brig start --checkpoint warm web", []member{
		{name: "create", construct: (*app).checkpointCreate}, {name: "ls", construct: (*app).checkpointList, aliases: []string{"list"}},
		{name: "rm", construct: (*app).checkpointRemove, aliases: []string{"remove"}},
	})
}

func checkpointDirFlag(f *pflag.FlagSet, dir *string) {
	f.StringVar(dir, "checkpoint-dir", "", "Use a custom checkpoint storage directory")
}

func (a *app) checkpointCreate() *cobra.Command {
	var o api.CheckpointOptions
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] CONTAINER CHECKPOINT",
		Short:             "Create a checkpoint from a running container",
		Example:           "  brig checkpoint create web warm\n  brig checkpoint create --leave-running --checkpoint-dir /srv/saved web monday",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.engine().Checkpoint(cmd.Context(), args[0], args[1], o); err != nil {
				return err
			}
			a.printf("%s\n", args[1])
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.LeaveRunning, "leave-running", false, "Leave the container running after checkpoint")
	checkpointDirFlag(f, &o.Dir)
	return cmd
}

func (a *app) checkpointList() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS] CONTAINER",
		Short:             "List checkpoints for a container",
		Example:           "  brig checkpoint ls web",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeContainers(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := a.engine().Checkpoints(cmd.Context(), args[0], dir)
			if err != nil {
				return err
			}
			a.printf("CHECKPOINT NAME\n")
			for _, n := range names {
				a.printf("%s\n", n)
			}
			return nil
		},
	}
	checkpointDirFlag(cmd.Flags(), &dir)
	return cmd
}

func (a *app) checkpointRemove() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTAINER CHECKPOINT",
		Short:             "Remove a checkpoint",
		Example:           "  brig checkpoint rm web warm",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeContainers(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().RemoveCheckpoint(cmd.Context(), args[0], args[1], dir)
		},
	}
	checkpointDirFlag(cmd.Flags(), &dir)
	return cmd
}

// containerCheckpoint is podman's: one checkpoint a container, which takes the place of the last.
func (a *app) containerCheckpoint() *cobra.Command {
	o := api.CheckpointOptions{Replace: true}
	var locks bool
	p := picking(running)
	cmd := &cobra.Command{
		Use:               "checkpoint [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Checkpoint one or more containers",
		Example:           "  brig container checkpoint web\n  brig container checkpoint --all --leave-running",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.each(cmd, a, args, func(name string) (string, error) {
				return name, a.engine().Checkpoint(cmd.Context(), name, podmansName, o)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.LeaveRunning, "leave-running", "R", false, "Leave the container running after writing checkpoint to disk")
	f.BoolVar(&locks, "file-locks", false, "Checkpoint a container with file locks (they always are)")
	p.allFlag(f, "a", "Checkpoint all running containers")
	p.latestFlag(f)
	return cmd
}

// containerRestore is podman's.
func (a *app) containerRestore() *cobra.Command {
	var keep, locks bool
	p := picking(notRunning)
	cmd := &cobra.Command{
		Use:               "restore [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Restore one or more containers from a checkpoint",
		Example:           "  brig container restore web\n  brig container restore --keep --all",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(notRunning),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, e := cmd.Context(), a.engine()
			return p.each(cmd, a, args, func(name string) (string, error) {
				if p.all {
					if there, err := e.Checkpoints(ctx, name, ""); err != nil || !slices.Contains(there, podmansName) {
						return "", err
					}
				}
				if _, err := e.Restore(ctx, name, podmansName, "", nil); err != nil {
					return "", err
				}
				if keep {
					return name, nil
				}
				err := e.RemoveCheckpoint(ctx, name, podmansName, "")
				if errors.Is(err, api.NotFound) { // it has ended already, and was removed
					err = nil
				}
				return name, err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&keep, "keep", "k", false, "Keep the checkpoint: the container can be restored from it again")
	f.BoolVar(&locks, "file-locks", false, "Restore a container with file locks (they always are)")
	p.allFlag(f, "a", "Restore all containers that have been checkpointed")
	p.latestFlag(f)
	return cmd
}
