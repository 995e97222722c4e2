package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

func (a *app) stop() *cobra.Command {
	p := picking(running)
	cmd := &cobra.Command{
		Use:               "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Stop one or more running containers",
		Long:              "Stop one or more running containers: each is sent its stop signal, and SIGKILL after a timeout.",
		Example:           "  brig stop web\n  brig stop -t 2 web db\n  brig stop --all",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(running),
	}
	f := cmd.Flags()
	options := stopFlags(f)
	p.allFlag(f, "a", "Stop all running containers")
	p.latestFlag(f)
	p.filterFlag(f, "f")
	p.cidfileFlag(f)
	p.ignoreFlag(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.each(cmd, a, args, func(name string) (string, error) { return name, a.engine().Stop(cmd.Context(), name, options()) })
	}
	return cmd
}

// stopFlags declares how a container is stopped; what they say is to be asked for once they are parsed.
func stopFlags(f *pflag.FlagSet) func() api.StopOptions {
	var o api.StopOptions
	var seconds int
	f.IntVarP(&seconds, "timeout", "t", 0, "Seconds to wait before killing the container (-1: forever; default its own, else 10)")
	f.IntVar(&seconds, "time", 0, "Seconds to wait before killing the container")
	_ = f.MarkHidden("time") // docker's old name
	f.StringVarP(&o.Signal, "signal", "s", "", "Signal to send to the container")
	return func() api.StopOptions {
		if f.Changed("timeout") || f.Changed("time") {
			o.Timeout = &seconds
		}
		return o
	}
}
