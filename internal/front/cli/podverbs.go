package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

// podPick says which pods a verb is for.
type podPick struct {
	all, latest, ignore bool
	files               []string
}

func (p *podPick) declare(f *pflag.FlagSet, all bool) {
	if all {
		f.BoolVarP(&p.all, "all", "a", false, "Act on all pods")
	}
	f.BoolVarP(&p.latest, "latest", "l", false, "Act on the latest pod that was created")
}

func (p *podPick) fileFlag(f *pflag.FlagSet) {
	list(f, "pod-id-file", "", "Read the pod ID from the file", appendTo(&p.files, plain))
}

func (p *podPick) ignoreFlag(f *pflag.FlagSet) {
	f.BoolVarP(&p.ignore, "ignore", "i", false, "Ignore pods that do not exist")
}

func (p *podPick) args(cmd *cobra.Command, args []string) error {
	if !p.all && !p.latest && len(p.files) == 0 {
		return minArgs(1)(cmd, args)
	}
	if len(args) > 0 && (p.all || p.latest) || p.all && p.latest {
		return &usageError{err: fmt.Errorf("'%s' takes either names or one of --all, --latest", cmd.CommandPath()), use: cmd.UseLine(), path: cmd.CommandPath()}
	}
	return nil
}

// names returns the pods to act on.
func (p *podPick) names(ctx context.Context, a *app, args []string) ([]string, error) {
	for _, file := range p.files {
		data, err := os.ReadFile(file)
		if err != nil {
			if p.ignore && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return nil, fmt.Errorf("pod ID file: %w", err)
		}
		args = append(args, strings.TrimSpace(string(data)))
	}
	if !p.all && !p.latest {
		return args, nil
	}
	pods, err := a.engine().Pods(ctx)
	if err != nil {
		return nil, err
	}
	if p.latest {
		if len(pods) == 0 {
			return nil, api.Errorf(api.NotFound, "no pods: none is the latest")
		}
		pods = pods[:1]
	}
	var ids []string
	for _, pod := range pods {
		ids = append(ids, pod.ID)
	}
	return ids, nil
}

// each does verb on every pod; its ID is printed.
func (p *podPick) each(cmd *cobra.Command, a *app, args []string, verb func(name string) error) error {
	names, err := p.names(cmd.Context(), a, args)
	if err != nil {
		return err
	}
	return a.each(cmd.Context(), names, func(name string) (string, error) {
		pod, err := a.engine().InspectPod(cmd.Context(), name)
		if err == nil {
			err = verb(pod.ID)
		} else if p.ignore && errors.Is(err, api.NotFound) {
			return "", nil
		}
		return pod.ID, err
	})
}

// podAction makes a verb that is one action of the engine.
func podAction(what api.PodAction, short string) func(*app) *cobra.Command {
	return func(a *app) *cobra.Command {
		var p podPick
		var o api.StopOptions
		var seconds int
		cmd := &cobra.Command{
			Use:               string(what) + " [OPTIONS] POD [POD...]",
			Short:             short,
			Example:           "  brig pod " + string(what) + " shop\n  brig pod " + string(what) + " --latest",
			Args:              p.args,
			ValidArgsFunction: a.completePods,
		}
		f := cmd.Flags()
		p.declare(f, true)
		switch what {
		case api.PodStart:
			p.fileFlag(f)
		case api.PodStop:
			p.fileFlag(f)
			p.ignoreFlag(f)
			f.IntVarP(&seconds, "time", "t", 0, "Seconds to wait before a container is killed (default 10, or what it was created with)")
		case api.PodKill:
			f.StringVarP(&o.Signal, "signal", "s", "KILL", "Signal to send to the containers")
		}
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if f.Changed("time") {
				o.Timeout = &seconds
			}
			return p.each(cmd, a, args, func(name string) error { return a.engine().ActOnPod(cmd.Context(), name, what, o) })
		}
		return cmd
	}
}

func (a *app) podRemove() *cobra.Command {
	var p podPick
	var force bool
	var seconds int
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] POD [POD...]",
		Short:             "Remove one or more pods, with their containers",
		Example:           "  brig pod rm shop\n  brig pod rm -f -a",
		Args:              p.args,
		ValidArgsFunction: a.completePods,
	}
	f := cmd.Flags()
	p.declare(f, true)
	p.fileFlag(f)
	p.ignoreFlag(f)
	f.BoolVarP(&force, "force", "f", false, "Remove a pod whose containers run (uses SIGKILL)")
	f.IntVarP(&seconds, "time", "t", 0, "Seconds to wait before a container is killed, with --force")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var wait *int
		if f.Changed("time") {
			if wait = &seconds; !force {
				return invalid(cmd, errors.New("--force must be given with --time"))
			}
		}
		return p.each(cmd, a, args, func(name string) error { return a.engine().RemovePod(cmd.Context(), name, force, wait) })
	}
	return cmd
}

func (a *app) podPrune() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all pods of which no container runs",
		Example:           "  brig pod prune -f",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.sure(force, "WARNING! This will remove all stopped/exited pods..") {
				return nil
			}
			pods, err := a.engine().Pods(cmd.Context())
			if err != nil {
				return err
			}
			var names []string
			for _, p := range pods {
				if p.Status == api.PodExited || p.Status == api.PodStopped {
					names = append(names, p.ID)
				}
			}
			return a.each(cmd.Context(), names, func(name string) (string, error) {
				return name, a.engine().RemovePod(cmd.Context(), name, false, nil)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}

func (a *app) podExists() *cobra.Command {
	return &cobra.Command{
		Use:               "exists POD",
		Short:             "Tell by the exit code whether there is a pod: 0, or 1",
		Example:           "  brig pod exists shop",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := a.engine().InspectPod(cmd.Context(), args[0])
			if errors.Is(err, api.NotFound) {
				return &exitError{code: codeFailed}
			}
			return err
		},
	}
}

// containersOf are the IDs of containers of pods; without infra only the others.
func (a *app) containersOf(ctx context.Context, pods []string, infra bool) (ids []string, err error) {
	for _, name := range pods {
		p, err := a.engine().InspectPod(ctx, name)
		if err != nil {
			return nil, err
		}
		for i := range p.Containers {
			if infra || !p.Containers[i].Spec.Infra {
				ids = append(ids, p.Containers[i].ID)
			}
		}
	}
	return ids, nil
}

// podLogs is logs of a pod's containers.
func (a *app) podLogs() *cobra.Command {
	var p podPick
	var o logFlags
	var only string
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] POD",
		Short:             "Fetch the logs of a pod's containers",
		Example:           "  brig pod logs shop\n  brig pod logs -f --names shop",
		ValidArgsFunction: a.completePods,
		Args: func(cmd *cobra.Command, args []string) error {
			if p.latest {
				return maxArgs(0)(cmd, args)
			}
			return exactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			ids, err := a.containersOf(cmd.Context(), names, false)
			if err != nil || len(ids) == 0 {
				return err
			}
			if only != "" {
				c, err := a.engine().Inspect(cmd.Context(), only)
				if err != nil {
					return err
				}
				if !slices.Contains(ids, c.ID) {
					return api.Errorf(api.NotFound, "container %s is not in the pod", only)
				}
				ids = []string{c.ID}
			}
			return a.doLogs(cmd.Context(), &o, ids)
		},
	}
	f := cmd.Flags()
	o.declare(f, "", "n")
	p.declare(f, false)
	f.StringVarP(&only, "container", "c", "", "Of this container of the pod only")
	return cmd
}

// podStats is stats of the containers of pods.
func (a *app) podStats() *cobra.Command {
	var p podPick
	var o statsOptions
	o.interval = time.Second
	cmd := &cobra.Command{
		Use:               "stats [OPTIONS] [POD...]",
		Short:             "Display a live stream of resource usage statistics of the containers in one or more pods",
		Example:           "  brig pod stats --no-stream shop",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.all = p.all || len(args) == 0 && !p.latest
			names, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			ids, err := a.containersOf(cmd.Context(), names, true)
			if err != nil || len(ids) == 0 {
				return err
			}
			return a.doStats(cmd.Context(), o, ids)
		},
	}
	f := cmd.Flags()
	p.declare(f, true)
	f.StringVar(&o.format, "format", "", formatHelp)
	f.BoolVar(&o.noReset, "no-reset", false, "Do not clear the terminal between results")
	f.BoolVar(&o.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	return cmd
}

// podTop is top of all containers of a pod that run.
func (a *app) podTop() *cobra.Command {
	var p podPick
	cmd := &cobra.Command{
		Use:               "top POD [ps OPTIONS | DESCRIPTOR...]",
		Short:             "Display the running processes of a pod's containers",
		Example:           "  brig pod top shop\n  brig pod top shop pid,user,args",
		ValidArgsFunction: a.completePods,
		Args: func(cmd *cobra.Command, args []string) error {
			if p.latest {
				return nil
			}
			return minArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var pods, words []string
			if p.latest {
				words = args
			} else {
				pods, words = args[:1], args[1:]
			}
			names, err := p.names(cmd.Context(), a, pods)
			if err != nil {
				return err
			}
			pod, err := a.engine().InspectPod(cmd.Context(), names[0])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.streams.Stdout, 20, 1, 3, ' ', 0) // docker's widths
			shown := false
			for i := range pod.Containers {
				c := &pod.Containers[i]
				if c.State.Status != api.StatusRunning && c.State.Status != api.StatusPaused {
					continue
				}
				table, err := a.engine().Top(cmd.Context(), c.ID, words)
				if err != nil {
					return err
				}
				if !shown {
					fmt.Fprintln(w, strings.Join(table.Titles, "\t"))
				}
				shown = true
				for _, row := range table.Rows {
					fmt.Fprintln(w, strings.Join(row, "\t"))
				}
			}
			if !shown {
				return api.Errorf(api.Conflict, "pod %s: no container of it is running", pod.Spec.Name)
			}
			return w.Flush()
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows POD is for ps
	p.declare(f, false)
	return cmd
}

// completePods offers the names of pods.
func (a *app) completePods(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	pods, _ := a.engine().Pods(cmd.Context())
	var names []string
	for _, p := range pods {
		if strings.HasPrefix(p.Spec.Name, begun) {
			names = append(names, p.Spec.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// podRow is a pod as ps shows it; the field names are podman's.
type podRow struct {
	ID, Name, Status, Created, InfraID, Labels, Networks, Namespace, Cgroup, Restarts string

	NumberOfContainers                              int
	ContainerIds, ContainerNames, ContainerStatuses string
	labels                                          map[string]string
}

// Label returns one label's value, for {{.Label "key"}}.
func (r podRow) Label(key string) string { return r.labels[key] }

func (a *app) podList() *cobra.Command {
	var o struct {
		ids, names, states, noTrunc, noHeading, ns, quiet, latest bool
		format, sort                                              string
	}
	filter := filters{}
	cmd := &cobra.Command{
		Use:               "ps [OPTIONS]",
		Short:             "List pods",
		Example:           "  brig pod ps\n  brig pod ps --filter status=running --format '{{.Name}}'",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pods, failed := a.engine().Pods(cmd.Context())
			if o.latest && len(pods) > 1 {
				pods = pods[:1]
			}
			now := time.Now()
			var rows []podRow
			for i := range pods {
				if matchesPod(filter, &pods[i]) {
					rows = append(rows, podRowOf(&pods[i], now, !o.noTrunc))
				}
			}
			if err := sortPods(rows, o.sort); err != nil {
				return errors.Join(err, failed)
			}
			usual := "{{.ID}}\t{{.Name}}\t{{.Status}}\t{{.Created}}\t{{.InfraID}}"
			if o.ids {
				usual += "\t{{.ContainerIds}}"
			}
			if o.names {
				usual += "\t{{.ContainerNames}}"
			}
			if o.states {
				usual += "\t{{.ContainerStatuses}}"
			}
			if o.ns {
				usual += "\t{{.Namespace}}"
			}
			if !o.ids && !o.names && !o.states {
				usual += "\t{{.NumberOfContainers}}"
			}
			if o.quiet && o.format == "" {
				o.format = "{{.ID}}"
			}
			titles := header{
				"ID": "POD ID", "Name": "NAME", "Status": "STATUS", "Created": "CREATED", "InfraID": "INFRA ID", "NumberOfContainers": "# OF CONTAINERS",
				"ContainerIds": "IDS", "ContainerNames": "NAMES", "ContainerStatuses": "STATUS", "Labels": "LABELS", "Networks": "NETWORKS",
				"Namespace": "NAMESPACES", "Cgroup": "CGROUP", "Restarts": "RESTARTS",
			}
			if o.noHeading {
				titles = nil
			}
			return errors.Join(printRows(a.streams.Stdout, o.format, usual, titles, rows), failed)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.ids, "ctr-ids", false, "Show the IDs of the containers")
	f.BoolVar(&o.names, "ctr-names", false, "Show the names of the containers")
	f.BoolVar(&o.states, "ctr-status", false, "Show the states of the containers")
	known := []string{"id", "name", "label", "status", "ctr-ids", "ctr-names", "ctr-number", "ctr-status"}
	list(f, "filter", "f", "Filter output based on conditions provided: "+strings.Join(known, ", "), filter.add(known...))
	f.StringVar(&o.format, "format", "", formatHelp)
	f.BoolVarP(&o.latest, "latest", "l", false, "Show the latest pod that was created")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVar(&o.noHeading, "noheading", false, "Do not print headers")
	f.BoolVar(&o.ns, "ns", false, "Show the namespaces that the pods share")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Only display pod IDs")
	f.StringVar(&o.sort, "sort", "created", "Sort output by created, id, name, status or number")
	return cmd
}

func podRowOf(p *api.Pod, now time.Time, trunc bool) podRow {
	r := podRow{
		ID: p.ID, Name: p.Spec.Name, Status: string(p.Status), Created: ago(now, p.Created), InfraID: p.Infra, Labels: labelText(p.Spec.Labels), labels: p.Spec.Labels,
		Networks: strings.Join(namesOfNetworks(&p.Spec.Network), ","), Namespace: strings.Join(p.Spec.Share, ","), NumberOfContainers: len(p.Containers),
	}
	if !p.Spec.NoShareParent {
		r.Cgroup = p.Spec.CgroupParent + "/brig-pod-" + p.ID
	}
	var ids, names, states []string
	restarts := 0
	for i := range p.Containers {
		c := &p.Containers[i]
		ids, names, states = append(ids, shortID(c.ID)), append(names, c.Name), append(states, string(c.State.Status))
		restarts += c.State.Restarts
	}
	r.ContainerIds, r.ContainerNames, r.ContainerStatuses = strings.Join(ids, ","), strings.Join(names, ","), strings.Join(states, ",")
	r.Restarts = strconv.Itoa(restarts)
	if trunc {
		r.ID, r.InfraID = shortID(r.ID), shortID(r.InfraID)
	}
	return r
}

func matchesPod(f filters, p *api.Pod) bool {
	of := func(test func(*api.Container) bool) bool {
		return slices.ContainsFunc(p.Containers, func(c api.Container) bool { return test(&c) })
	}
	return f.any("id", func(s string) bool { return strings.HasPrefix(p.ID, s) }) &&
		f.any("name", func(s string) bool { return strings.Contains(p.Spec.Name, s) }) &&
		f.any("status", func(s string) bool { return strings.EqualFold(s, string(p.Status)) }) &&
		f.any("ctr-ids", func(s string) bool { return of(func(c *api.Container) bool { return strings.HasPrefix(c.ID, s) }) }) &&
		f.any("ctr-names", func(s string) bool { return of(func(c *api.Container) bool { return strings.Contains(c.Name, s) }) }) &&
		f.any("ctr-status", func(s string) bool { return of(func(c *api.Container) bool { return s == string(c.State.Status) }) }) &&
		f.any("ctr-number", func(s string) bool { return s == strconv.Itoa(len(p.Containers)) }) &&
		f.labelled(p.Spec.Labels)
}

// sortPods sorts the rows, which come newest first.
func sortPods(rows []podRow, by string) error {
	key := func(r podRow) string { return r.ID }
	switch by {
	case "created": // as they come: the newest first
		return nil
	case "id":
	case "name":
		key = func(r podRow) string { return r.Name }
	case "status":
		key = func(r podRow) string { return r.Status }
	case "number":
		key = func(r podRow) string { return fmt.Sprintf("%09d", r.NumberOfContainers) }
	default:
		return fmt.Errorf("invalid sort order %q: use created, id, name, status or number", by)
	}
	slices.SortStableFunc(rows, func(x, y podRow) int { return strings.Compare(key(x), key(y)) })
	return nil
}

// podView is a pod as podman pod inspect prints it.
type podView struct {
	ID               string `json:"Id"`
	Name             string
	Created          string
	State            string
	Hostname         string
	Labels           map[string]string
	CreateCgroup     bool
	CgroupParent     string
	CgroupPath       string
	CreateInfra      bool
	InfraContainerID string
	InfraConfig      podInfra
	SharedNamespaces []string
	NumContainers    int
	Containers       []podContainer
}

type podInfra struct {
	PortBindings  map[string][]portBinding
	HostNetwork   bool
	NetworkMode   string
	DNSServer     []string
	DNSSearch     []string
	DNSOption     []string
	NoManageHosts bool
	HostAdd       []string
}

type podContainer struct {
	ID    string `json:"Id"`
	Name  string
	State string
}

func podViewOf(p *api.Pod) podView {
	s := &p.Spec
	v := podView{
		ID: p.ID, Name: s.Name, Created: dockerTime(p.Created), State: string(p.Status), Hostname: first(s.Hostname, s.Name), Labels: s.Labels,
		CreateCgroup: !s.NoShareParent, CgroupParent: s.CgroupParent, CreateInfra: !s.NoInfra, InfraContainerID: p.Infra, SharedNamespaces: list0(s.Share),
		NumContainers: len(p.Containers), Containers: []podContainer{},
		InfraConfig: podInfra{
			PortBindings: map[string][]portBinding{}, HostNetwork: s.Network.Mode == api.NamespaceHost, NetworkMode: append(namesOfNetworks(&s.Network), "")[0],
			DNSServer: list0(s.Network.DNS), DNSSearch: list0(s.Network.Search), DNSOption: list0(s.Network.DNSOptions), NoManageHosts: s.Network.NoHosts, HostAdd: []string{},
		},
	}
	if v.CreateCgroup {
		v.CgroupPath = s.CgroupParent + "/brig-pod-" + p.ID
	}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	for _, port := range s.Network.Ports {
		addBinding(v.InfraConfig.PortBindings, port)
	}
	for _, h := range s.Network.AddHosts {
		v.InfraConfig.HostAdd = append(v.InfraConfig.HostAdd, h.Name+":"+h.IP)
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		v.Containers = append(v.Containers, podContainer{c.ID, c.Name, string(c.State.Status)})
	}
	return v
}

func (a *app) podInspect() *cobra.Command {
	var p podPick
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] POD [POD...]",
		Short:             "Display the configuration of one or more pods",
		Example:           "  brig pod inspect shop\n  brig pod inspect -f '{{.State}}' shop",
		Args:              p.args,
		ValidArgsFunction: a.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := p.names(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			var views []podView
			failed := a.each(cmd.Context(), names, func(name string) (string, error) {
				pod, err := a.engine().InspectPod(cmd.Context(), name)
				if err == nil && format != "" {
					return "", printObject(a.streams.Stdout, format, podViewOf(&pod))
				}
				if err == nil {
					views = append(views, podViewOf(&pod))
				}
				return "", err
			})
			switch {
			case format != "" || len(views) == 0:
				return failed
			case len(names) == 1: // podman's way
				return printPretty(a.streams.Stdout, views[0])
			}
			return errors.Join(printPretty(a.streams.Stdout, views), failed)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	p.declare(f, false)
	return cmd
}
