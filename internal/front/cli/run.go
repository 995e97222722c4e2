package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) run() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:             "Create and run a new container from an image",
		Example:           "  brig run --rm debian echo hello\n  brig run -it --name box -v \"$PWD\":/src -w /src debian bash\n  brig run -d -p 8080:80 -m 256m nginx",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeImage,
	}
	o := a.addSpecFlags(cmd)
	var streams []string
	var detach, sigProxy bool
	var keys []byte
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "Run container in background and print container ID")
	list(f, "attach", "a", "Attach to STDIN, STDOUT or STDERR", appendTo(&streams, parseStream))
	f.BoolVar(&sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	detachKeysFlag(f, &keys)
	preserve := preserveFDs(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		spec, err := o.finish(f, args)
		if err != nil {
			return invalid(cmd, err)
		}
		at, err := a.runAttach(spec, streams, detach)
		if err != nil {
			return invalid(cmd, err)
		}
		if at != nil {
			at.DetachKeys = keys
		}
		if spec.Files, err = preserve(); err != nil {
			return invalid(cmd, err)
		}
		if len(spec.Files) > 0 && spec.Restart.Name != "" && spec.Restart.Name != api.RestartNo {
			return invalid(cmd, errors.New("conflicting options: --preserve-fds and --restart: who starts the container again has no descriptors for it"))
		}
		return a.doRun(cmd, o, spec, at, sigProxy)
	}
	return cmd
}

// doRun runs spec attached as at says, or detached where at is nil.
func (a *app) doRun(cmd *cobra.Command, o *specFlags, spec api.ContainerSpec, at *api.Attach, sigProxy bool) error {
	keep, err := o.holdCIDFile()
	if err != nil {
		return runError(cmd, err)
	}
	if err := o.replaced(cmd.Context()); err != nil {
		return runError(cmd, errors.Join(err, keep("")))
	}
	var j *joined
	if at != nil {
		j = a.join(*at)
		defer j.close()
		at = &j.attach
	}
	undo, err := o.podOf(cmd, &spec)
	if err != nil {
		return runError(cmd, errors.Join(err, keep("")))
	}
	c, session, err := a.engine().Run(cmd.Context(), spec, at, a.quietly(o.quiet))
	if err != nil && c.State.Status == api.StatusCreated { // it is there, to be looked at
		if at == nil {
			a.printf("%s\n", c.ID)
		}
		return runError(cmd, errors.Join(err, keep(c.ID)))
	}
	if err != nil {
		undo()
		return runError(cmd, errors.Join(err, keep("")))
	}
	if err := keep(c.ID); err != nil {
		a.errorf("container ID file: %s", err) // it runs already
	}
	if at == nil {
		a.printf("%s\n", c.ID)
		return nil
	}
	if !at.Stdout && !at.Stderr {
		defer a.printf("%s\n", c.ID)
	}
	err = a.finish(j.follow(cmd.Context(), session, sigProxy))
	var exit *exitError
	if err != nil && !errors.As(err, &exit) {
		return runError(cmd, err)
	}
	return err
}

// runAttach says what to attach, by docker's rules: both outputs, and standard input with -i; with -a only what it lists; nothing
// with -d, where it returns nil.
func (a *app) runAttach(spec api.ContainerSpec, streams []string, detach bool) (*api.Attach, error) {
	if detach {
		if len(streams) > 0 {
			return nil, errors.New("conflicting options: cannot specify both --attach and --detach")
		}
		return nil, nil
	}
	if len(streams) == 0 {
		streams = []string{"stdin", "stdout", "stderr"}
	}
	at := api.Attach{
		TTY: spec.TTY, Stdin: spec.Interactive && slices.Contains(streams, "stdin"),
		Stdout: slices.Contains(streams, "stdout"), Stderr: slices.Contains(streams, "stderr"),
	}
	if at.TTY && at.Stdin && a.streams.Terminal == nil {
		return nil, &exitError{code: codeFailed, err: errNotTerminal}
	}
	return &at, nil
}

func parseStream(s string) (string, error) {
	switch s = strings.ToLower(s); s {
	case "stdin", "stdout", "stderr":
		return s, nil
	}
	return "", fmt.Errorf("valid streams are STDIN, STDOUT and STDERR")
}
