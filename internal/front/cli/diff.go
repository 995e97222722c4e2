package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) diff() *cobra.Command {
	p := picking(nil)
	format := ""
	cmd := &cobra.Command{
		Use:               "diff [OPTIONS] CONTAINER",
		Short:             "Inspect changes to files or directories on a container's filesystem",
		Long:              "Inspect changes to files or directories on a container's filesystem: A was added, C was changed, D was deleted.",
		Example:           "  brig diff web\n  brig diff --format json web",
		Args:              p.shifted(exactArgs(1)),
		ValidArgsFunction: a.completeContainer(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, _, err := p.one(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			changes, err := a.engine().Diff(cmd.Context(), name)
			if err != nil {
				return err
			}
			if format == "json" {
				return printPretty(a.streams.Stdout, diffView(changes))
			}
			for _, c := range changes {
				a.printf("%c %s\n", c.Kind, c.Path)
			}
			return nil
		},
	}
	f := cmd.Flags()
	p.latestFlag(f)
	parsed(f, "format", "", "string", "Change the output format: json", assign(&format, func(s string) (string, error) {
		if s != "json" {
			return "", api.Errorf(api.InvalidArgument, "diff only knows the format json")
		}
		return s, nil
	}))
	return cmd
}

// diffChanges is podman's JSON form.
type diffChanges struct {
	Changed []string `json:"changed,omitempty"`
	Added   []string `json:"added,omitempty"`
	Deleted []string `json:"deleted,omitempty"`
}

func diffView(changes []api.Change) diffChanges {
	var v diffChanges
	for _, c := range changes {
		switch c.Kind {
		case api.Added:
			v.Added = append(v.Added, c.Path)
		case api.Changed:
			v.Changed = append(v.Changed, c.Path)
		case api.Deleted:
			v.Deleted = append(v.Deleted, c.Path)
		}
	}
	return v
}
