package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// psOptions are the flags of ps.
type psOptions struct {
	all, quiet, latest, noTrunc bool
	last                        int
	format                      string
	filter                      filters
}

func (a *app) ps() *cobra.Command {
	o := psOptions{filter: filters{}}
	cmd := &cobra.Command{
		Use:               "ps [OPTIONS]",
		Short:             "List containers",
		Example:           "  brig ps -a\n  brig ps --filter label=env=test --format 'table {{.Names}}\\t{{.Status}}'\n  brig rm $(brig ps -aq --filter status=exited)",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.engine().List(cmd.Context())
			if err != nil {
				return err
			}
			return a.printContainers(o, all, time.Now())
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	list(f, "filter", "f", filterHelp, o.filter.add(containerFilters()...))
	f.StringVar(&o.format, "format", "", formatHelp)
	f.IntVarP(&o.last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.BoolVarP(&o.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Only display container IDs")
	return cmd
}

// psRow is a container as ps shows it; the field names are docker's.
type psRow struct {
	Command, CreatedAt, ID, Image, Labels, LocalVolumes, Mounts, Names, Networks, Ports, RunningFor, Size, State, Status string

	labels map[string]string
}

// Label returns one label's value, for {{.Label "key"}}.
func (r psRow) Label(key string) string { return r.labels[key] }

// printContainers prints those of all that o selects, the latest first.
func (a *app) printContainers(o psOptions, all []api.Container, now time.Time) error {
	if o.latest {
		o.last = 1
	}
	all, err := o.filter.choose(all, now)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(x, y api.Container) int { return y.Created.Compare(x.Created) })
	_, byStatus := o.filter["status"]
	_, byExit := o.filter["exited"]
	everyState := o.all || o.last >= 0 || byStatus || byExit
	var rows []psRow
	for i := range all {
		c := &all[i]
		if !everyState && c.State.Status != api.StatusRunning && c.State.Status != api.StatusPaused && c.State.Status != api.StatusRestarting {
			continue
		}
		if o.last >= 0 && len(rows) == o.last {
			break
		}
		rows = append(rows, psRowOf(c, now, !o.noTrunc))
	}
	if o.quiet && o.format == "" {
		o.format = "{{.ID}}"
	}
	return printRows(a.streams.Stdout, o.format, "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}", header{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
		"Status": "STATUS", "State": "STATE", "Ports": "PORTS", "Names": "NAMES", "Size": "SIZE", "Labels": "LABELS",
		"Mounts": "MOUNTS", "Networks": "NETWORKS", "LocalVolumes": "LOCAL VOLUMES",
	}, rows)
}

// healthOf is a container's health as docker's filter calls it.
func healthOf(c *api.Container) string {
	if c.State.Health == nil {
		return "none"
	}
	return c.State.Health.Status
}

func psRowOf(c *api.Container, now time.Time, trunc bool) psRow {
	r := psRow{
		ID: c.ID, Names: c.Name, Image: c.ImageName, State: string(c.State.Status), Status: statusText(c, now),
		CreatedAt: c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"), RunningFor: ago(now, c.Created),
		Labels: labelText(c.Spec.Labels), Networks: networkName(c), Size: "0B", labels: c.Spec.Labels,
	}
	command := commandText(c.Args)
	if trunc {
		r.ID, command = shortID(r.ID), ellipsis(command, 20)
		if digest, ok := strings.CutPrefix(r.Image, "sha256:"); ok {
			r.Image = shortID(digest)
		}
	}
	r.Command = strconv.Quote(command)
	if c.Link != nil {
		r.Ports = portsText(c.Link.Ports)
	}
	volumes := 0
	var mounts []string
	for _, m := range c.Spec.Mounts {
		name := m.Source
		if m.Type == "volume" {
			volumes++
		}
		if name != "" {
			if trunc {
				name = ellipsis(name, 15)
			}
			mounts = append(mounts, name)
		}
	}
	r.Mounts, r.LocalVolumes = strings.Join(mounts, ","), strconv.Itoa(volumes)
	return r
}

// commandText joins a command line as docker's COMMAND column does: arguments with a blank in single quotes.
func commandText(args []string) string {
	all := slices.Clone(args)
	for i := 1; i < len(all); i++ {
		if strings.Contains(all[i], " ") {
			all[i] = "'" + all[i] + "'"
		}
	}
	return strings.Join(all, " ")
}

// statusText is docker's STATUS column.
func statusText(c *api.Container, now time.Time) string {
	switch s := c.State; s.Status {
	case api.StatusRunning:
		up := "Up " + humanDuration(now.Sub(s.StartedAt))
		switch {
		case s.Health == nil:
		case s.Health.Status == api.HealthStarting:
			up += " (health: starting)"
		default:
			up += " (" + s.Health.Status + ")"
		}
		return up
	case api.StatusPaused:
		return "Up " + humanDuration(now.Sub(s.StartedAt)) + " (Paused)"
	case api.StatusRestarting:
		return fmt.Sprintf("Restarting (%d) %s", s.Exit.Code, ago(now, s.Exit.At))
	case api.StatusExited:
		if s.Exit == nil {
			return "Exited"
		}
		return fmt.Sprintf("Exited (%d) %s", s.Exit.Code, ago(now, s.Exit.At))
	case api.StatusDead:
		return "Dead"
	}
	return "Created"
}

// networkName is what a container's network is called.
func networkName(c *api.Container) string {
	if c.Spec.Network.Mode == "" {
		return "bridge"
	}
	return c.Spec.Network.Mode
}

// labelText writes labels as KEY=VALUE, sorted, with commas between.
func labelText(labels map[string]string) string {
	all := make([]string, 0, len(labels))
	for k, v := range labels {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// shortID is the form of an ID that people read.
func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// ellipsis cuts s to n characters, the last of them a mark that something is missing.
func ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
