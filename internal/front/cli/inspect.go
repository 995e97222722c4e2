package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) inspect() *cobra.Command {
	var kind string
	cmd := a.inspectCommand(&kind)
	parsed(cmd.Flags(), "type", "", "string", "Only inspect objects of the given type: container, image or network", assign(&kind, parseKind))
	return cmd
}

// inspectOf is inspect in a group, which knows the kind.
func inspectOf(kind string) func(*app) *cobra.Command {
	return func(a *app) *cobra.Command {
		cmd := a.inspectCommand(&kind)
		name := strings.ToUpper(kind)
		cmd.Use = "inspect [OPTIONS] " + name + " [" + name + "...]"
		cmd.Short, cmd.Example = "Display detailed information on one or more "+kind+"s", "  brig "+kind+" inspect -f '{{.Id}}' NAME"
		cmd.ValidArgsFunction = a.completeImages
		if kind == "container" {
			cmd.ValidArgsFunction = a.completeContainers(nil)
		}
		return cmd
	}
}

func (a *app) inspectCommand(kind *string) *cobra.Command {
	var format string
	var size bool
	p := picking(nil)
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short:             "Return low-level information on containers, images and networks",
		Example:           "  brig inspect web\n  brig inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web\n  brig inspect --type image debian:12",
		Args:              p.args,
		ValidArgsFunction: a.completeObjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			var views []any
			failed := a.each(cmd.Context(), args, func(name string) (string, error) {
				view, err := a.lookUp(cmd.Context(), name, *kind, size)
				if err != nil {
					return "", err
				}
				if format != "" {
					return "", printObject(a.streams.Stdout, format, view)
				}
				views = append(views, view)
				return "", nil
			})
			if format == "" {
				if views == nil {
					views = []any{}
				}
				return errors.Join(printPretty(a.streams.Stdout, views), failed)
			}
			return failed
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	if *kind != "image" {
		cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
		p.latestFlag(cmd.Flags())
	}
	return cmd
}

func parseKind(s string) (string, error) {
	switch s {
	case "container", "image", "network":
		return s, nil
	}
	return "", errors.New("use container, image or network")
}

// lookUp returns what inspect prints of a container or, where none has the name, an image or else a network; kind asks for one of them.
func (a *app) lookUp(ctx context.Context, name, kind string, size bool) (any, error) {
	if kind == "" || kind == "container" {
		c, err := a.engine().Inspect(ctx, name)
		if err == nil {
			view := containerView(&c, a.options.Root)
			if size {
				sizes, err := a.engine().ContainerSizes(ctx, c.ID)
				if err != nil {
					return nil, err
				}
				s := sizes[c.ID]
				total := s.Writable + s.Image
				view.SizeRw, view.SizeRootFs = &s.Writable, &total
			}
			return view, nil
		}
		if !errors.Is(err, api.NotFound) {
			return nil, err
		}
	}
	if kind == "" || kind == "image" {
		img, err := a.engine().ImageDetail(ctx, name)
		if err == nil {
			return imageView(&img), nil
		}
		if !errors.Is(err, api.NotFound) {
			return nil, err
		}
	}
	if kind == "" || kind == "network" {
		n, err := a.engine().InspectNetwork(ctx, name)
		if err == nil {
			return viewOfNetwork(&n), nil
		}
		if !errors.Is(err, api.NotFound) {
			return nil, err
		}
	}
	if kind == "" {
		kind = "object"
	}
	return nil, fmt.Errorf("no such %s: %s", kind, name)
}

// completeObjects offers containers and images.
func (a *app) completeObjects(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	containers, _ := a.completeContainers(nil)(cmd, args, begun)
	images, _ := a.completeImages(cmd, args, begun)
	return append(containers, images...), cobra.ShellCompDirectiveNoFileComp
}
