package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) debugCmd() *cobra.Command {
	e := api.ExecSpec{Interactive: true}
	var env []string
	var nets networkSet
	var script string
	cmd := &cobra.Command{
		Use:   "debug [OPTIONS] CONTAINER [COMMAND [ARG...]]",
		Short: "Open a shell with tools in a container that has none",
		Long: "Open a shell in a container, with its files, processes, network, user namespace and limits. Its own programs come first; what it lacks are the programs of another\n" +
			"image, " + api.ToolsImage + " if nothing else is said, which are found below " + api.ToolsDir + " and nowhere else: no file of the container changes.\n\n" +
			"Of a container that does not run the shell has the files, with its volumes and bound folders read-only, and its environment, user and working directory,\n" +
			"in a container of its own. What it changes is gone with it, and the container stays as it is.",
		Example:           "  brig debug web\n  brig debug web -- netstat -tln\n  brig debug -c 'ps; df -h' web",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeContainer(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if e.Env, err = environment(nil, env); err != nil {
				return invalid(cmd, err)
			}
			if len(args) > 1 && args[1] == "--" { // what follows belongs to the command either way
				args = append(args[:1:1], args[2:]...)
			}
			shell := api.ToolsDir + "/bin/sh"
			switch {
			case script != "" && len(args) > 1:
				return invalid(cmd, errors.New("--command takes the place of COMMAND: give one of them"))
			case script != "":
				e.Command = []string{shell, "-c", script}
			case len(args) > 1:
				e.Command = args[1:]
			default:
				e.Command = []string{shell}
			}
			if err := nets.enter(&e.Network); err != nil {
				return invalid(cmd, err)
			}
			e.TTY = a.streams.Terminal != nil
			return a.doExec(cmd, args[0], e)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CONTAINER belongs to the command
	f.StringVarP(&script, "command", "c", "", "Have the shell execute this instead of asking")
	detachKeysFlag(f, &e.DetachKeys)
	list(f, "env", "e", "Set environment variables", appendTo(&env, parseEnv))
	f.StringVar(&e.Tools, "image", api.ToolsImage, "Image of one layer that the tools are taken from")
	parsed(f, "network", "", "network", "Network of the shell, where the container does not run (default none)", nets.add)
	f.BoolVar(&e.Privileged, "privileged", false, "Give extended privileges to the shell")
	f.StringVarP(&e.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>]); else root, and where the container does not run its user")
	f.StringVarP(&e.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}
