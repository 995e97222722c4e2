package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

// logTime is docker's layout of a log line's time: RFC 3339 with nine digits, so that lines align.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// logFlags are those of logs.
type logFlags struct {
	api.LogOptions
	timestamps, names, details bool
}

// declare declares those that logs and pod logs have; the one's -n is the other's --names.
func (o *logFlags) declare(f *pflag.FlagSet, tail, names string) {
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	o.Tail = -1
	f.VarP(&value{kind: "string", text: "all", set: assign(&o.Tail, parseTail)}, "tail", tail, "Number of lines to show from the end of the logs")
	now := func(s string) (time.Time, error) { return parseTime(s, time.Now()) }
	parsed(f, "since", "", "string", "Show logs since a time (2026-01-02T13:23:37Z) or for a duration (42m)", assign(&o.Since, now))
	parsed(f, "until", "", "string", "Show logs before a time (2026-01-02T13:23:37Z) or a duration ago (42m)", assign(&o.Until, now))
	f.BoolVarP(&o.names, "names", names, false, "Write the container's name before each line")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "Show timestamps")
}

func (a *app) logs() *cobra.Command {
	var o logFlags
	p := picking(nil)
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Fetch the logs of a container",
		Example:           "  brig logs web\n  brig logs -f --tail 20 --since 10m web\n  brig logs --names web db",
		Args:              p.args,
		ValidArgsFunction: a.completeContainers(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			return a.doLogs(cmd.Context(), &o, chosen)
		},
	}
	f := cmd.Flags()
	o.declare(f, "n", "")
	f.BoolVar(&o.details, "details", false, "Show extra details provided to logs")
	p.latestFlag(f)
	return cmd
}

// doLogs prints the logs of containers, one after the other, but with --follow all at once.
func (a *app) doLogs(ctx context.Context, o *logFlags, names []string) error {
	var mu sync.Mutex // lines of several containers come whole
	read := func(name string) error {
		prefix, details := "", ""
		if o.names || o.details {
			c, err := a.engine().Inspect(ctx, name)
			if err != nil {
				return err
			}
			if o.names {
				prefix = c.Name + " "
			}
			if o.details {
				if details = logDetails(&c); details != "" {
					details += " "
				}
			}
		}
		return a.engine().Logs(ctx, name, o.LogOptions, func(e api.LogEntry) error {
			out := a.streams.Stdout
			if e.Stream == "stderr" {
				out = a.streams.Stderr
			}
			line := []byte(prefix)
			if o.timestamps {
				line = append(e.Time.UTC().AppendFormat(line, logTime), ' ')
			}
			line = append(append(line, details...), e.Line...)
			mu.Lock()
			defer mu.Unlock()
			_, err := out.Write(line)
			return err
		})
	}
	if !o.Follow || len(names) == 1 {
		return a.each(ctx, names, func(name string) (string, error) { return "", read(name) })
	}
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { errs[i] = read(name) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// logDetails are the labels and variables that the log options name, as docker shows them: KEY=VALUE,KEY=VALUE.
func logDetails(c *api.Container) string {
	var all []string
	chosen := func(option string) []string {
		if v := c.Spec.Log.Options[option]; v != "" {
			return strings.Split(v, ",")
		}
		return nil
	}
	for _, name := range chosen("labels") {
		if v, ok := c.Spec.Labels[name]; ok {
			all = append(all, name+"="+v)
		} else if v, ok := c.ImageConfig.Labels[name]; ok {
			all = append(all, name+"="+v)
		}
	}
	env := mergeEnv(c.ImageConfig.Env, c.Spec.Env)
	for _, name := range chosen("env") {
		for _, e := range env {
			if strings.HasPrefix(e, name+"=") {
				all = append(all, e)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func parseTail(s string) (int, error) {
	if s == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of lines: use a number or all", s)
	}
	return max(n, -1), nil
}
