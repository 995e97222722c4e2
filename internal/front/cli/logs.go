package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// logTime is docker's layout of a log line's time: RFC 3339 with nine digits, so that lines align.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (a *app) logs() *cobra.Command {
	o := api.LogOptions{Tail: -1}
	var timestamps bool
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER",
		Short:             "Fetch the logs of a container",
		Example:           "  brig logs web\n  brig logs -f --tail 20 --since 10m web",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeContainer(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().Logs(cmd.Context(), args[0], o, func(e api.LogEntry) error {
				out := a.streams.Stdout
				if e.Stream == "stderr" {
					out = a.streams.Stderr
				}
				line := e.Line
				if timestamps {
					line = append(e.Time.UTC().AppendFormat(nil, logTime+" "), line...)
				}
				_, err := out.Write(line)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.VarP(&value{kind: "string", text: "all", set: assign(&o.Tail, parseTail)}, "tail", "n", "Number of lines to show from the end of the logs")
	now := func(s string) (time.Time, error) { return parseTime(s, time.Now()) }
	parsed(f, "since", "", "string", "Show logs since a time (2026-01-02T13:23:37Z) or for a duration (42m)", assign(&o.Since, now))
	parsed(f, "until", "", "string", "Show logs before a time (2026-01-02T13:23:37Z) or a duration ago (42m)", assign(&o.Until, now))
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
