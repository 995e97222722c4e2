package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// pruneFlags are what all prunes have in common.
type pruneFlags struct {
	force   bool
	filter  api.PruneOptions
	filters []string // as typed, for the warning
}

func (p *pruneFlags) declare(cmd *cobra.Command, about string) {
	f := cmd.Flags()
	list(f, "filter", "", about, p.add)
	f.BoolVarP(&p.force, "force", "f", false, "Do not prompt for confirmation")
}

// add keeps one filter: until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE].
func (p *pruneFlags) add(s string) error {
	name, val, found := strings.Cut(s, "=")
	if !found || val == "" {
		return fmt.Errorf("invalid filter %q: use until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE]", s)
	}
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "until":
		if !p.filter.Until.IsZero() {
			return errors.New("more than one until filter specified")
		}
		t, err := parseTime(val, time.Now())
		if err != nil {
			return err
		}
		p.filter.Until = t
	case "label":
		p.filter.Labels = append(p.filter.Labels, val)
	case "label!":
		p.filter.NotLabels = append(p.filter.NotLabels, val)
	default:
		return fmt.Errorf("invalid filter '%s': the filters are until, label, label!", name)
	}
	p.filters = append(p.filters, s)
	return nil
}

// sure asks, unless force says that there is nothing to ask. As with docker, the answer no is no failure.
func (a *app) sure(force bool, warning string) bool {
	if force {
		return true
	}
	a.printf("%s\nAre you sure you want to continue? [y/N] ", warning)
	answer, _ := bufio.NewReader(a.streams.Stdin).ReadString('\n')
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}

func (a *app) containerPrune() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all stopped containers",
		Example:           "  brig container prune\n  brig container prune -f --filter until=24h --filter label!=keep",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.sure(p.force, "WARNING! This will remove all stopped containers.") {
				return nil
			}
			r, err := a.engine().PruneContainers(cmd.Context(), p.filter)
			a.printPruned(r)
			return err
		},
	}
	p.declare(cmd, `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

func (a *app) imagePrune() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove unused images",
		Example:           "  brig image prune\n  brig image prune -a --filter until=240h",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			warning := "WARNING! This will remove all dangling images."
			if p.filter.All {
				warning = "WARNING! This will remove all images without at least one container associated to them."
			}
			if !a.sure(p.force, warning) {
				return nil
			}
			r, err := a.engine().PruneImages(cmd.Context(), p.filter)
			a.printPruned(r)
			return err
		},
	}
	cmd.Flags().BoolVarP(&p.filter.All, "all", "a", false, "Remove all unused images, not just dangling ones")
	p.declare(cmd, `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

func (a *app) systemPrune() *cobra.Command {
	var p pruneFlags
	var volumes bool
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove unused data",
		Example:           "  brig system prune\n  brig system prune -a --volumes -f",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if volumes && !p.filter.Until.IsZero() {
				return errors.New(`the "until" filter is not supported with "--volumes"`)
			}
			if !a.sure(p.force, p.systemWarning(volumes)) {
				return nil
			}
			return a.pruneSystem(cmd.Context(), p.filter, volumes)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&p.filter.All, "all", "a", false, "Remove all unused images not just dangling ones")
	f.BoolVar(&volumes, "volumes", false, "Prune anonymous volumes")
	p.declare(cmd, `Provide filter values (e.g. "label=<key>=<value>")`)
	return cmd
}

// systemWarning says what will go.
func (p *pruneFlags) systemWarning(volumes bool) string {
	lines := []string{"WARNING! This will remove:", "  - all stopped containers", "  - all networks not used by at least one container"}
	if volumes {
		lines = append(lines, "  - all anonymous volumes not used by at least one container")
	}
	if p.filter.All {
		lines = append(lines, "  - all images without at least one container associated to them")
	} else {
		lines = append(lines, "  - all dangling images")
	}
	lines = append(lines, "  - what was left of downloads and removals that were broken off")
	if len(p.filters) > 0 {
		lines = append(lines, "", "  Items to be pruned will be filtered with:")
		for _, f := range p.filters {
			lines = append(lines, "  - "+f)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// pruneSystem removes containers first: they hold on to volumes and images. A failure of one is told after the others had their turn.
func (a *app) pruneSystem(ctx context.Context, o api.PruneOptions, volumes bool) error {
	e := a.engine()
	total, err := e.PruneContainers(ctx, o)
	errs := []error{err}
	if ctx.Err() == nil {
		r, err := e.PruneNetworks(ctx, o)
		total.Networks = r.Networks
		errs = append(errs, err)
	}
	if volumes && ctx.Err() == nil {
		r, err := e.PruneVolumes(ctx, o)
		total.Volumes, total.Reclaimed = r.Volumes, total.Reclaimed+r.Reclaimed
		errs = append(errs, err)
	}
	if ctx.Err() == nil {
		r, err := e.PruneImages(ctx, o)
		total.Images, total.Reclaimed = r.Images, total.Reclaimed+r.Reclaimed
		errs = append(errs, err)
	}
	a.printPruned(total)
	return errors.Join(errs...)
}

// printPruned prints what went, as docker does.
func (a *app) printPruned(r api.PruneReport) {
	for _, part := range []struct {
		title string
		lines []string
	}{{"Deleted Containers:", r.Containers}, {"Deleted Volumes:", r.Volumes}, {"Deleted Networks:", r.Networks}, {"Deleted Images:", r.Images}} {
		if len(part.lines) > 0 {
			a.printf("%s\n%s\n\n", part.title, strings.Join(part.lines, "\n"))
		}
	}
	a.printf("Total reclaimed space: %s\n", humanSize(r.Reclaimed))
}
