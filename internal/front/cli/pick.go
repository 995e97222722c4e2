package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

// pick says which containers a verb is for: those that are named or, as podman has it, those that flags choose.
type pick struct {
	state func(*api.Container) bool // which of all containers the flags all and filter mean; nil: any

	all, latest, ignore bool
	filter              filters
	cidfiles            []string
	able                []string // names of the flags that the verb has
}

// picking begins a pick for a verb whose --all means the containers that pass state.
func picking(state func(*api.Container) bool) *pick { return &pick{state: state, filter: filters{}} }

// The flags of a pick; a verb declares those that podman's has, with their shorthands.

func (p *pick) allFlag(f *pflag.FlagSet, short, about string) {
	f.BoolVarP(&p.all, "all", short, false, about)
	p.able = append(p.able, "all")
}

func (p *pick) latestFlag(f *pflag.FlagSet) {
	f.BoolVarP(&p.latest, "latest", "l", false, "Act on the latest container that was created")
	p.able = append(p.able, "latest")
}

func (p *pick) filterFlag(f *pflag.FlagSet, short string) {
	list(f, "filter", short, strings.Replace(filterHelp, "Filter output based on", "Act on all containers that meet the", 1), p.filter.add(containerFilters()...))
	p.able = append(p.able, "filter")
}

func (p *pick) cidfileFlag(f *pflag.FlagSet) {
	list(f, "cidfile", "", "Read the container ID from the file", appendTo(&p.cidfiles, plain))
	p.able = append(p.able, "cidfile")
}

func (p *pick) ignoreFlag(f *pflag.FlagSet) {
	f.BoolVarP(&p.ignore, "ignore", "i", false, "Ignore containers that do not exist")
}

// byFlag reports whether flags choose the containers.
func (p *pick) byFlag() bool { return p.all || p.latest || len(p.filter) > 0 || len(p.cidfiles) > 0 }

// args is docker's complaint about too few names, and podman's about names and flags at once.
func (p *pick) args(cmd *cobra.Command, args []string) error {
	if !p.byFlag() {
		return minArgs(1)(cmd, args)
	}
	if len(args) > 0 && len(p.cidfiles) == 0 || p.all && p.latest {
		return &usageError{
			err: fmt.Errorf("'%s' takes either names or one of --%s", cmd.CommandPath(), strings.Join(p.able, ", --")), use: cmd.UseLine(), path: cmd.CommandPath(),
		}
	}
	return nil
}

// shifted is args for a verb whose names are followed by other words: with --latest the first of these stands where the name would.
func (p *pick) shifted(more cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if p.latest {
			args = append([]string{""}, args...)
		}
		return more(cmd, args)
	}
}

// names returns the containers to act on, by ID where flags choose them.
func (p *pick) names(ctx context.Context, a *app, args []string) ([]string, error) {
	if !p.byFlag() {
		return args, nil
	}
	names := args
	for _, file := range p.cidfiles {
		data, err := os.ReadFile(file)
		if err != nil {
			if p.ignore && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("container ID file: %w", err)
		}
		id, _, _ := strings.Cut(string(data), "\n")
		names = append(names, strings.TrimSpace(id))
	}
	if !p.all && !p.latest && len(p.filter) == 0 {
		return names, nil
	}
	all, err := a.engine().List(ctx)
	if err != nil {
		return nil, err
	}
	if p.latest {
		if len(all) == 0 {
			return nil, errors.New("no containers found")
		}
		return []string{all[0].ID}, nil
	}
	chosen, err := p.filter.choose(all, time.Now())
	if err != nil {
		return nil, err
	}
	for i := range chosen {
		if p.state == nil || p.state(&chosen[i]) {
			names = append(names, chosen[i].ID)
		}
	}
	return names, nil
}

// one returns the container that a verb for one is about, and the other words.
func (p *pick) one(ctx context.Context, a *app, args []string) (string, []string, error) {
	if !p.latest {
		return args[0], args[1:], nil
	}
	names, err := p.names(ctx, a, nil)
	if err != nil {
		return "", nil, err
	}
	return names[0], args, nil
}

// each does verb on every container that is picked, as [app.each].
func (p *pick) each(cmd *cobra.Command, a *app, args []string, verb func(name string) (string, error)) error {
	names, err := p.names(cmd.Context(), a, args)
	if err != nil {
		return err
	}
	return a.each(cmd.Context(), names, func(name string) (string, error) {
		out, err := verb(name)
		if p.ignore && errors.Is(err, api.NotFound) {
			return "", nil
		}
		return out, err
	})
}
