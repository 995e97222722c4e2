package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) exec() *cobra.Command {
	var e api.ExecSpec
	var env, envFiles []string
	var preserve func() ([]int, error)
	p := picking(running)
	cmd := &cobra.Command{
		Use:               "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short:             "Execute a command in a running container",
		Example:           "  brig exec -it box bash\n  brig exec -u 1000 -w /tmp -e LANG=C web ls -l",
		Args:              p.shifted(minArgs(2)),
		ValidArgsFunction: a.completeContainer(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if e.Env, err = environment(envFiles, env); err != nil {
				return invalid(cmd, err)
			}
			if e.Files, err = preserve(); err != nil {
				return invalid(cmd, err)
			}
			name, words, err := p.one(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			e.Command = words
			return a.doExec(cmd, name, e)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CONTAINER belongs to the command
	f.BoolVarP(&e.Detach, "detach", "d", false, "Detached mode: run command in the background")
	detachKeysFlag(f, &e.DetachKeys)
	list(f, "env", "e", "Set environment variables", appendTo(&env, parseEnv))
	list(f, "env-file", "", "Read in a file of environment variables", appendTo(&envFiles, plain))
	f.BoolVarP(&e.Interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	p.latestFlag(f)
	preserve = preserveFDs(f)
	f.BoolVar(&e.Privileged, "privileged", false, "Give extended privileges to the command")
	f.BoolVarP(&e.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	f.StringVarP(&e.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVarP(&e.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

// doExec runs e in the named container. Exec is no session: signals are not handed to the process, as in docker, but cancel the wait.
func (a *app) doExec(cmd *cobra.Command, name string, e api.ExecSpec) error {
	at := api.Attach{TTY: e.TTY, Stdin: e.Interactive}
	if e.Detach {
		at = api.Attach{}
	}
	if at.TTY && at.Stdin && a.streams.Terminal == nil {
		return errNotTerminal
	}
	j := a.join(at)
	defer j.close()
	e.Size = j.attach.Size
	exit, err := a.engine().Exec(cmd.Context(), name, e, j.attach.Streams)
	switch {
	case errors.Is(err, api.CommandNotFound):
		return &exitError{code: codeNotFound, err: err}
	case errors.Is(err, api.CommandNotRunnable):
		return &exitError{code: codeNotInvoked, err: err}
	}
	return a.finish(exit, err)
}
