package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

func (a *app) start() *cobra.Command {
	var attach, interactive, sigProxy bool
	var keys []byte
	var from savedIn
	p := picking(notRunning)
	cmd := &cobra.Command{
		Use:               "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Start one or more stopped containers",
		Example:           "  brig start web db\n  brig start -ai box\n  brig start --filter label=tier=front",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(notRunning),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from.checkpoint == "" && from.dir != "" {
				return errors.New("--checkpoint-dir is the folder of a checkpoint: name one with --checkpoint")
			}
			if from.checkpoint != "" && len(args) != 1 {
				return errors.New("you cannot restore multiple containers at once") // docker's words
			}
			if !attach && !interactive {
				return p.each(cmd, a, args, func(name string) (string, error) {
					_, err := from.start(cmd.Context(), a.engine(), name, nil)
					return name, err
				})
			}
			names, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			if len(names) != 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			return a.startAttached(cmd, names[0], api.Attach{Stdin: interactive, Stdout: true, Stderr: true, DetachKeys: keys}, sigProxy, from)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	f.BoolVarP(&interactive, "interactive", "i", false, "Attach container's STDIN")
	f.StringVar(&from.checkpoint, "checkpoint", "", "Restore from this checkpoint")
	checkpointDirFlag(f, &from.dir)
	f.BoolVar(&sigProxy, "sig-proxy", true, "With --attach, proxy received signals to the process")
	detachKeysFlag(f, &keys)
	p.allFlag(f, "", "Start all containers that do not run")
	p.latestFlag(f)
	p.filterFlag(f, "f")
	return cmd
}

func (a *app) initialize() *cobra.Command {
	p := picking(uninitialized)
	cmd := &cobra.Command{
		Use:   "init [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Make one or more containers ready to start, without executing their commands",
		Long: `Make all of a container but the last step: namespaces, mounts, network, limits and its process, which executes
its command when the container is started. Until then it can be looked at, and files can be copied in.`,
		Example:           "  brig init web\n  brig cp settings web:/etc/web\n  brig start web",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(uninitialized),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.each(cmd, a, args, func(name string) (string, error) { return name, a.engine().Init(cmd.Context(), name) })
		},
	}
	p.allFlag(cmd.Flags(), "a", "Initialize all containers that do not run")
	p.latestFlag(cmd.Flags())
	return cmd
}

// startAttached starts a container and stays with it. Standard input is joined only where the container was made with -i.
func (a *app) startAttached(cmd *cobra.Command, name string, at api.Attach, sigProxy bool, from savedIn) error {
	c, err := a.engine().Inspect(cmd.Context(), name)
	if err != nil {
		return err
	}
	at.TTY = c.Spec.TTY
	at.Stdin = at.Stdin && c.Spec.Interactive
	if at.TTY && at.Stdin && a.streams.Terminal == nil {
		return errNotTerminal
	}
	j := a.join(at)
	defer j.close()
	session, err := from.start(cmd.Context(), a.engine(), c.ID, &j.attach)
	if err != nil {
		return err
	}
	return a.finish(j.follow(cmd.Context(), session, sigProxy && !at.TTY))
}

// savedIn is the checkpoint that a container is to go on from; the zero value: it begins.
type savedIn struct{ checkpoint, dir string }

func (s savedIn) start(ctx context.Context, e Engine, name string, at *api.Attach) (*api.Session, error) {
	if s.checkpoint != "" {
		return e.Restore(ctx, name, s.checkpoint, s.dir, at)
	}
	return e.Start(ctx, name, at)
}

func detachKeysFlag(f *pflag.FlagSet, keys *[]byte) {
	parsed(f, "detach-keys", "", "string", "Override the key sequence for detaching a container", assign(keys, parseKeys))
}
