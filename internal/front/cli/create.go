package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) create() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:             "Create a new container",
		Example:           "  brig create --name web -p 8080:80 nginx\n  brig start web",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeImage,
	}
	o := a.addSpecFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		spec, err := o.finish(cmd.Flags(), args)
		if err != nil {
			return invalid(cmd, err)
		}
		keep, err := o.holdCIDFile()
		if err != nil {
			return err
		}
		if err := o.replaced(cmd.Context()); err != nil {
			return errors.Join(err, keep(""))
		}
		undo, err := o.podOf(cmd, &spec)
		if err != nil {
			return errors.Join(err, keep(""))
		}
		c, err := a.engine().Create(cmd.Context(), spec, a.quietly(o.quiet))
		if err != nil {
			undo()
		}
		if err = errors.Join(err, keep(c.ID)); err != nil {
			return err
		}
		a.printf("%s\n", c.ID)
		return nil
	}
	return cmd
}
