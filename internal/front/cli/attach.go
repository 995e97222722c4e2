package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) attach() *cobra.Command {
	var noStdin, sigProxy bool
	var keys []byte
	p := picking(running)
	cmd := &cobra.Command{
		Use:               "attach [OPTIONS] CONTAINER",
		Short:             "Attach local standard input, output, and error streams to a running container",
		Example:           "  brig attach box\n  brig attach --no-stdin --sig-proxy=false web",
		Args:              p.shifted(exactArgs(1)),
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, _, err := p.one(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			c, err := a.engine().Inspect(cmd.Context(), name)
			if err != nil {
				return err
			}
			at := api.Attach{Stdin: !noStdin && c.Spec.Interactive, Stdout: true, Stderr: true, TTY: c.Spec.TTY, DetachKeys: keys}
			if at.TTY && at.Stdin && a.streams.Terminal == nil {
				return errNotTerminal
			}
			j := a.join(at)
			defer j.close()
			session, err := a.engine().Attach(cmd.Context(), c.ID, j.attach)
			if err != nil {
				return err
			}
			return a.finish(j.follow(cmd.Context(), session, sigProxy && !at.TTY))
		},
	}
	f := cmd.Flags()
	detachKeysFlag(f, &keys)
	p.latestFlag(f)
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	f.BoolVar(&sigProxy, "sig-proxy", true, "Proxy all received signals to the process (not of a container with a terminal)")
	return cmd
}
