package cli

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// logTime is docker's layout of a log line's time: RFC 3339 with nine digits, so that lines align.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (a *app) logs() *cobra.Command {
	o := api.LogOptions{Tail: -1}
	var timestamps, names bool
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
			var mu sync.Mutex // lines of several containers come whole
			read := func(name string) error {
				prefix := ""
				if names {
					c, err := a.engine().Inspect(cmd.Context(), name)
					if err != nil {
						return err
					}
					prefix = c.Name + " "
				}
				return a.engine().Logs(cmd.Context(), name, o, func(e api.LogEntry) error {
					out := a.streams.Stdout
					if e.Stream == "stderr" {
						out = a.streams.Stderr
					}
					line := append([]byte(prefix), e.Line...)
					if timestamps {
						line = append(e.Time.UTC().AppendFormat([]byte(prefix), logTime+" "), e.Line...)
					}
					mu.Lock()
					defer mu.Unlock()
					_, err := out.Write(line)
					return err
				})
			}
			if !o.Follow || len(chosen) == 1 {
				return a.each(cmd.Context(), chosen, func(name string) (string, error) { return "", read(name) })
			}
			errs := make([]error, len(chosen))
			var all sync.WaitGroup
			for i, name := range chosen {
				all.Go(func() { errs[i] = read(name) })
			}
			all.Wait()
			return errors.Join(errs...)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.VarP(&value{kind: "string", text: "all", set: assign(&o.Tail, parseTail)}, "tail", "n", "Number of lines to show from the end of the logs")
	now := func(s string) (time.Time, error) { return parseTime(s, time.Now()) }
	parsed(f, "since", "", "string", "Show logs since a time (2026-01-02T13:23:37Z) or for a duration (42m)", assign(&o.Since, now))
	parsed(f, "until", "", "string", "Show logs before a time (2026-01-02T13:23:37Z) or a duration ago (42m)", assign(&o.Until, now))
	f.BoolVar(&names, "names", false, "Write the container's name before each line")
	p.latestFlag(f)
	f.BoolVarP(&timestamps, "timestamps", "t", false, "Show timestamps")
	return cmd
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
