package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"brig/api"
)

// statsOptions are the flags of stats.
type statsOptions struct {
	all, noStream, noTrunc, noReset bool
	format                          string
	interval                        time.Duration
}

func (a *app) stats() *cobra.Command {
	var o statsOptions
	o.interval = time.Second
	p := picking(nil)
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		Long: "Display a live stream of container(s) resource usage statistics, of all running containers where none is named. CPU % is of one processor:\n" +
			"two that are busy are 200 %. Memory is without the part of the page cache that the kernel would give up first.",
		Example:           "  brig stats\n  brig stats --no-stream web db\n  brig stats --no-stream --format '{{.Name}}'",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeContainers(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			return a.doStats(cmd.Context(), o, names)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	f.StringVar(&o.format, "format", "", formatHelp)
	f.BoolVar(&o.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	f.BoolVar(&o.noReset, "no-reset", false, "Do not clear the terminal between results")
	parsed(f, "interval", "i", "int", "Time in seconds between results (default 1)", assign(&o.interval, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s + "s")
		if err == nil && d <= 0 {
			err = errors.New("it must be positive")
		}
		return d, err
	}))
	p.latestFlag(f)
	return cmd
}

// statsRow is a container as stats shows it; the field names are docker's.
type statsRow struct {
	BlockIO, CPUPerc, Container, ID, MemPerc, MemUsage, Name, NetIO, PIDs string
}

// doStats prints what containers use, until ctx ends or, with names, none of them is there any more.
func (a *app) doStats(ctx context.Context, o statsOptions, names []string) error {
	if _, err := parseTemplate(strings.TrimPrefix(o.format, "table")); err != nil && o.format != "json" {
		return err
	}
	for _, name := range names { // docker's complaint comes before the first line
		if _, err := a.engine().Inspect(ctx, name); err != nil {
			return err
		}
	}
	out, isFile := a.streams.Stdout.(*os.File)
	live := isFile && term.IsTerminal(int(out.Fd())) && !o.noReset && !o.noStream
	before := map[string]api.Usage{}
	if _, err := a.sample(ctx, o, names, before); err != nil {
		return err
	}
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			if o.noStream {
				return ctx.Err()
			}
			return nil
		case <-time.After(o.interval):
		}
		rows, err := a.sample(ctx, o, names, before)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := printStats(&b, o.format, rows); err != nil {
			return err
		}
		text := b.String()
		if live { // over what stood there, so that nothing flickers
			text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
			if first {
				text = "\x1b[2J" + text
			}
		}
		if _, err := fmt.Fprint(a.streams.Stdout, text); err != nil || o.noStream {
			return err
		}
	}
}

// sample reads the counters of the containers and returns what changed since before, which it brings up to date.
func (a *app) sample(ctx context.Context, o statsOptions, names []string, before map[string]api.Usage) ([]statsRow, error) {
	named := len(names) > 0
	if !named {
		all, err := a.engine().List(ctx)
		if err != nil {
			return nil, err
		}
		for i := range all {
			if o.all || running(&all[i]) {
				names = append(names, all[i].ID)
			}
		}
	}
	var rows []statsRow
	for _, name := range names {
		c, now, err := a.engine().Stats(ctx, name)
		if errors.Is(err, api.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r := statsRowOf(&c, before[c.ID], now, !o.noTrunc)
		if named {
			r.Container = name
		}
		rows = append(rows, r)
		before[c.ID] = now
	}
	return rows, nil
}

func statsRowOf(c *api.Container, before, now api.Usage, trunc bool) statsRow {
	r := statsRow{ID: c.ID, Name: c.Name, Container: c.ID}
	if trunc {
		r.ID = shortID(c.ID)
		r.Container = r.ID
	}
	cpu := 0.0
	if wall := now.At.Sub(before.At); !before.At.IsZero() && wall > 0 && now.CPU > before.CPU {
		cpu = 100 * float64(now.CPU-before.CPU) / float64(wall)
	}
	memory := 0.0
	if now.MemoryLimit > 0 {
		memory = 100 * float64(now.Memory) / float64(now.MemoryLimit)
	}
	r.CPUPerc, r.MemPerc = fmt.Sprintf("%.2f%%", cpu), fmt.Sprintf("%.2f%%", memory)
	r.MemUsage = humanMemory(int64(now.Memory)) + " / " + humanMemory(int64(now.MemoryLimit))
	r.NetIO = humanSize(int64(now.NetIn)) + " / " + humanSize(int64(now.NetOut))
	r.BlockIO = humanSize(int64(now.BlockIn)) + " / " + humanSize(int64(now.BlockOut))
	r.PIDs = fmt.Sprint(now.Pids)
	return r
}

func printStats(out *bytes.Buffer, format string, rows []statsRow) error {
	usual := "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"
	return printRows(out, format, usual, header{
		"ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %",
		"NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
	}, rows)
}
