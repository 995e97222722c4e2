package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

// completer is what the shell asks for the next argument.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// running and notRunning choose the containers that a command can do something with.
func running(c *api.Container) bool {
	return c.State.Status == api.StatusRunning || c.State.Status == api.StatusPaused
}

func notRunning(c *api.Container) bool { return !running(c) }

func uninitialized(c *api.Container) bool {
	return notRunning(c) && c.State.Status != api.StatusInitialized
}

func paused(c *api.Container) bool { return c.State.Status == api.StatusPaused }

func notPaused(c *api.Container) bool { return c.State.Status == api.StatusRunning }

// completeContainers offers the names of containers that pass want (nil: all) and are not there already.
func (a *app) completeContainers(want func(*api.Container) bool) completer {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		all, err := a.engine().List(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for i := range all {
			if want == nil || want(&all[i]) {
				names = append(names, all[i].Name)
			}
		}
		return offer(names, args, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeContainer offers containers for the first argument only; after it the shell's own completion is as good as any.
func (a *app) completeContainer(want func(*api.Container) bool) completer {
	names := a.completeContainers(want)
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return names(cmd, args, begun)
	}
}

// completeImages offers the short names of images that are not there already.
func (a *app) completeImages(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	all, err := a.engine().Images(cmd.Context())
	if err != nil && !errors.Is(err, api.Corrupt) {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for i := range all {
		if all[i].Name != "" {
			names = append(names, familiar(all[i].Name))
		}
	}
	return offer(names, args, begun), cobra.ShellCompDirectiveNoFileComp
}

// completeImage offers an image for the first argument only.
func (a *app) completeImage(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeImages(cmd, args, begun)
}

// offer returns the names that go on from what is begun, without those used.
func offer(names, used []string, begun string) []string {
	seen := map[string]bool{}
	for _, u := range used {
		seen[u] = true
	}
	var left []string
	for _, n := range names {
		if strings.HasPrefix(n, begun) && !seen[n] {
			seen[n] = true
			left = append(left, n)
		}
	}
	return left
}
