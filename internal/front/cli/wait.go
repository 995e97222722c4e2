package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) wait() *cobra.Command {
	p := picking(nil)
	var conditions []string
	interval := 250 * time.Millisecond
	cmd := &cobra.Command{
		Use:               "wait [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Block until one or more containers stop, then print their exit codes",
		Long:              "Block until one or more containers stop, then print their exit codes. With --condition it waits for another state, and prints -1.",
		Example:           "  brig wait job\n  brig wait --condition running web",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(running),
	}
	f := cmd.Flags()
	list(f, "condition", "", "Condition to wait on: created, running, paused, exited, stopped, removed (default stopped)", appendTo(&conditions, parseCondition))
	parsed(f, "interval", "i", "duration", "Time between looks for a condition (default 250ms)", assign(&interval, parseInterval))
	p.latestFlag(f)
	f.BoolVar(&p.ignore, "ignore", false, "Ignore containers that do not exist")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.each(cmd, a, args, func(name string) (string, error) {
			if !slices.ContainsFunc(conditions, func(c string) bool { return c != "exited" && c != "stopped" }) {
				exit, err := a.engine().Wait(cmd.Context(), name)
				return strconv.Itoa(exit.Code), err
			}
			return a.await(cmd.Context(), name, conditions, interval)
		})
	}
	return cmd
}

func parseCondition(s string) (string, error) {
	switch s = strings.ToLower(s); s {
	case "created", "running", "paused", "exited", "stopped", "removed", "removing":
		return s, nil
	case "configured": // podman's word
		return "created", nil
	}
	return "", fmt.Errorf("%q is no condition: use created, running, paused, exited, stopped or removed", s)
}

// parseInterval takes a duration, or as older podmans a number of milliseconds.
func parseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.Atoi(s); nerr == nil {
		d, err = time.Duration(n)*time.Millisecond, nil
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no duration: use one as 500ms", s)
	}
	return d, nil
}

// await looks at a container until one of the conditions is met. Its exit code is told once it has ended, else -1.
func (a *app) await(ctx context.Context, name string, conditions []string, interval time.Duration) (string, error) {
	for {
		c, err := a.engine().Inspect(ctx, name)
		if api.KindOf(err) == api.NotFound && (slices.Contains(conditions, "removed") || slices.Contains(conditions, "removing")) {
			return "-1", nil
		}
		if err != nil {
			return "", err
		}
		name = c.ID // whoever takes its name is another
		state := string(c.State.Status)
		if slices.Contains(conditions, state) || state == "exited" && slices.Contains(conditions, "stopped") {
			if c.State.Exit != nil && state == "exited" {
				return strconv.Itoa(c.State.Exit.Code), nil
			}
			return "-1", nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(interval):
		}
	}
}
