package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
	"brig/internal/base/rootless"
)

// psOptions are the flags of ps.
type psOptions struct {
	all, quiet, latest, noTrunc, size, pod, ns, noHeading bool
	last                                                  int
	format, sort                                          string
	filter                                                filters
	podNames                                              map[string]string // by ID; nil: nobody asked
	sizes                                                 map[string]api.ContainerSize
}

func (a *app) ps() *cobra.Command {
	o := psOptions{filter: filters{}}
	var watch time.Duration
	cmd := &cobra.Command{
		Use:               "ps [OPTIONS]",
		Short:             "List containers",
		Example:           "  brig ps -a\n  brig ps --filter label=env=test --format 'table {{.Names}}\\t{{.Status}}'\n  brig rm $(brig ps -aq --filter status=exited)",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for {
				if err := a.doPs(cmd.Context(), o); err != nil || watch == 0 {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				case <-time.After(watch):
				}
			}
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	list(f, "filter", "f", filterHelp+", pod", o.filter.add(append(containerFilters(), "pod")...))
	f.StringVar(&o.format, "format", "", formatHelp)
	f.IntVarP(&o.last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.BoolVarP(&o.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Only display container IDs")
	f.BoolVarP(&o.size, "size", "s", false, "Display total file sizes")
	f.BoolVarP(&o.pod, "pod", "p", false, "Display ID and name of the pods that the containers are in")
	f.BoolVar(&o.ns, "ns", false, "Display the namespaces of the containers")
	f.BoolVar(&o.noHeading, "noheading", false, "Do not print headers")
	f.StringVar(&o.sort, "sort", "", "Sort output by command, created, id, image, names, runningfor, size or status (default: the latest first)")
	parsed(f, "watch", "w", "uint", "Seconds after which the list is printed anew, until interrupted", assign(&watch, func(s string) (time.Duration, error) {
		n, err := strconv.ParseUint(s, 10, 31)
		return time.Duration(n) * time.Second, err
	}))
	return cmd
}

// doPs lists the containers once.
func (a *app) doPs(ctx context.Context, o psOptions) error {
	all, err := a.engine().List(ctx)
	if err != nil {
		return err
	}
	var damaged error
	if o.pod || len(o.filter["pod"]) > 0 || strings.Contains(o.format, ".Pod") {
		var pods []api.Pod
		pods, damaged = a.engine().Pods(ctx)
		o.podNames = map[string]string{}
		for _, p := range pods {
			o.podNames[p.ID] = p.Spec.Name
			for i, v := range o.filter["pod"] { // a name is an ID to the filter
				if v == p.Spec.Name {
					o.filter["pod"][i] = p.ID
				}
			}
		}
	}
	if o.size || strings.Contains(o.format, ".Size") {
		if o.sizes, err = a.engine().ContainerSizes(ctx); err != nil {
			return err
		}
	}
	return errors.Join(a.printContainers(o, all, time.Now()), damaged)
}

// psRow is a container as ps shows it; the field names are docker's.
type psRow struct {
	Command, CreatedAt, ID, Image, Labels, LocalVolumes, Mounts, Names, Networks, Platform, Ports, RunningFor, Size, State, Status string

	// podman's
	Pod, PodName, PodID, Created, ImageID, Restarts, ExitCode, Pid string
	PIDNS, IPC, UTS, NET, MNT, CGROUPNS, USERNS                    string

	labels map[string]string
	bytes  int64
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
		r := psRowOf(c, now, !o.noTrunc)
		r.podman(c, &o)
		rows = append(rows, r)
	}
	if err := sortContainers(rows, o.sort); err != nil {
		return err
	}
	if o.quiet && o.format == "" {
		o.format = "{{.ID}}"
	}
	usual := "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
	if o.ns {
		usual = "{{.ID}}\t{{.Names}}\t{{.Pid}}\t{{.CGROUPNS}}\t{{.IPC}}\t{{.MNT}}\t{{.NET}}\t{{.PIDNS}}\t{{.USERNS}}\t{{.UTS}}"
	}
	if o.pod {
		usual += "\t{{.PodID}}\t{{.PodName}}"
	}
	if o.size {
		usual += "\t{{.Size}}"
	}
	titles := header{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
		"Status": "STATUS", "State": "STATE", "Ports": "PORTS", "Names": "NAMES", "Size": "SIZE", "Labels": "LABELS",
		"Mounts": "MOUNTS", "Networks": "NETWORKS", "LocalVolumes": "LOCAL VOLUMES",
		"Pod": "POD ID", "PodID": "POD ID", "PodName": "PODNAME", "Created": "CREATED", "ImageID": "IMAGE ID", "Restarts": "RESTARTS", "ExitCode": "EXIT CODE", "Pid": "PID",
		"PIDNS": "PIDNS", "IPC": "IPC", "UTS": "UTS", "NET": "NET", "MNT": "MNT", "CGROUPNS": "CGROUPNS", "USERNS": "USERNS",
	}
	if o.noHeading {
		titles = nil
	}
	return printRows(a.streams.Stdout, o.format, usual, titles, rows)
}

// podman fills in what podman tells, and what is told only where it was asked for.
func (r *psRow) podman(c *api.Container, o *psOptions) {
	r.Pod, r.PodID, r.PodName = c.Spec.Pod, c.Spec.Pod, o.podNames[c.Spec.Pod]
	r.Created, r.ImageID, r.Restarts, r.Pid, r.ExitCode = r.RunningFor, c.Image, strconv.Itoa(c.State.Restarts), strconv.Itoa(c.State.Pid), "0"
	if !o.noTrunc {
		r.Pod, r.PodID, r.ImageID = shortID(r.Pod), shortID(r.PodID), shortID(r.ImageID)
	}
	if c.State.Exit != nil {
		r.ExitCode = strconv.Itoa(c.State.Exit.Code)
	}
	if s, ok := o.sizes[c.ID]; ok {
		r.bytes = s.Writable
		r.Size = fmt.Sprintf("%s (virtual %s)", humanSize(s.Writable), humanSize(s.Writable+s.Image))
	}
	if c.State.Pid == 0 || !o.ns && !strings.Contains(o.format, "NS") && !strings.Contains(o.format, "IPC") && !strings.Contains(o.format, "UTS") && !strings.Contains(o.format, "MNT") && !strings.Contains(o.format, "NET") {
		return
	}
	for file, to := range map[string]*string{"pid": &r.PIDNS, "ipc": &r.IPC, "uts": &r.UTS, "net": &r.NET, "mnt": &r.MNT, "cgroup": &r.CGROUPNS, "user": &r.USERNS} {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.State.Pid, file)) // it may have ended
		*to = strings.Trim(link[strings.IndexByte(link, ':')+1:], "[]")
	}
}

// sortContainers sorts the rows by one of podman's words; without one they stay as they are.
func sortContainers(rows []psRow, by string) error {
	var key func(r *psRow) string
	switch by {
	case "":
		return nil
	case "command":
		key = func(r *psRow) string { return r.Command }
	case "created", "runningfor":
		slices.Reverse(rows) // the oldest first
		return nil
	case "id":
		key = func(r *psRow) string { return r.ID }
	case "image":
		key = func(r *psRow) string { return r.Image }
	case "names":
		key = func(r *psRow) string { return r.Names }
	case "size":
		slices.SortStableFunc(rows, func(x, y psRow) int { return cmp.Compare(x.bytes, y.bytes) })
		return nil
	case "status":
		key = func(r *psRow) string { return r.State }
	default:
		return fmt.Errorf("invalid sort order %q: use command, created, id, image, names, runningfor, size or status", by)
	}
	slices.SortStableFunc(rows, func(x, y psRow) int { return strings.Compare(key(&x), key(&y)) })
	return nil
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
		Labels: labelText(c.Spec.Labels), Networks: strings.Join(networkNames(c), ","), Platform: c.Spec.Platform, Size: "0B", labels: c.Spec.Labels,
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
	case api.StatusInitialized:
		return "Initialized"
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

// firstNetwork is what the network is called that is no network of one's own.
func firstNetwork(c *api.Container) string { return first(c.Spec.Network.Mode, defaultNetwork()) }

// defaultNetwork is what the network is called of a container that names none: without root's rights it is one of the container's own.
func defaultNetwork() string {
	if rootless.Active() {
		return "pasta"
	}
	return "bridge"
}

// networkNames are what a container's networks are called.
func networkNames(c *api.Container) []string { return namesOfNetworks(&c.Spec.Network) }

func namesOfNetworks(s *api.NetworkSpec) (names []string) {
	if s.Mode != api.NetworkOwn {
		names = append(names, first(s.Mode, defaultNetwork()))
	}
	for _, n := range s.Networks {
		names = append(names, n.Network)
	}
	return names
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
