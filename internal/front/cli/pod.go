package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

func (a *app) podGroup() *cobra.Command {
	return a.group("pod", "Manage pods", "  brig pod create --name shop -p 8080:80\n  brig run -d --pod shop nginx\n  brig pod ps", []member{
		{name: "create", construct: (*app).podCreate}, {name: "exists", construct: (*app).podExists}, {name: "inspect", construct: (*app).podInspect},
		{name: "kill", construct: podAction(api.PodKill, "Send a signal to the containers of one or more pods")},
		{name: "logs", construct: (*app).podLogs},
		{name: "pause", construct: podAction(api.PodPause, "Pause the containers of one or more pods")},
		{name: "prune", construct: (*app).podPrune}, {name: "ps", construct: (*app).podList, aliases: []string{"ls", "list"}},
		{name: "restart", construct: podAction(api.PodRestart, "Restart the containers of one or more pods")},
		{name: "rm", construct: (*app).podRemove},
		{name: "start", construct: podAction(api.PodStart, "Start the containers of one or more pods")},
		{name: "stats", construct: (*app).podStats},
		{name: "stop", construct: podAction(api.PodStop, "Stop the containers of one or more pods")},
		{name: "top", construct: (*app).podTop},
		{name: "unpause", construct: podAction(api.PodUnpause, "Let the containers of one or more pods go on")},
	})
}

// podFlags are those of pod create, on their way to an api.PodSpec.
type podFlags struct {
	spec               api.PodSpec
	labels, labelFiles []string
	infra, replace     bool
	shareParent        bool
	share              string
	idFile             string
	networks           networkSet
}

func (a *app) podCreate() *cobra.Command {
	var o podFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [NAME]",
		Short: "Create a new pod",
		Long: "Create a new pod: containers that share a network, and more, and are started and stopped together. What they share a container of the pod's own\n" +
			"holds, the infra container, which needs no image.",
		Example:           "  brig pod create shop\n  brig pod create --name shop -p 8080:80 --share net,ipc",
		Args:              maxArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.finish(cmd.Flags(), args); err != nil {
				return invalid(cmd, err)
			}
			if o.replace {
				if err := a.engine().RemovePod(cmd.Context(), o.spec.Name, true, nil); err != nil && !errors.Is(err, api.NotFound) {
					return err
				}
			}
			p, err := a.engine().CreatePod(cmd.Context(), o.spec)
			if err != nil {
				return err
			}
			if o.idFile != "" {
				if err := os.WriteFile(o.idFile, []byte(p.ID), 0o644); err != nil {
					return fmt.Errorf("pod ID file: %w", errors.Join(err, a.engine().RemovePod(cmd.Context(), p.ID, true, nil)))
				}
			}
			a.printf("%s\n", p.ID)
			return nil
		},
	}
	o.declare(a, cmd.Flags())
	return cmd
}

func (o *podFlags) declare(a *app, f *pflag.FlagSet) {
	s, n := &o.spec, &o.spec.Network
	f.StringVarP(&s.Name, "name", "n", "", "Assign a name to the pod")
	f.BoolVar(&o.replace, "replace", false, "Remove a pod of the same name first")
	list(f, "label", "l", "Set metadata on pod", appendTo(&o.labels, plain))
	list(f, "label-file", "", "Read in a line delimited file of labels", appendTo(&o.labelFiles, plain))
	f.StringVar(&o.idFile, "pod-id-file", "", "Write the pod ID to the file")
	f.StringVar(&o.share, "share", "ipc,net,uts", "Namespaces that the containers share: of ipc, net, uts, pid; +pid for one more than usual; none")
	f.BoolVar(&o.shareParent, "share-parent", true, "Give the containers' control groups a parent in common")
	f.StringVar(&s.CgroupParent, "cgroup-parent", "", "Parent of that parent")
	f.BoolVar(&o.infra, "infra", true, "Create an infra container, which holds what the containers share")
	f.StringVar(&s.InfraName, "infra-name", "", "Name of the infra container")
	parsed(f, "exit-policy", "", "string", "What becomes of the pod when its last container ends: continue", func(v string) error {
		if v == "stop" {
			return api.Errorf(api.Unsupported, "--exit-policy=stop is not supported: stop the pod with `brig pod stop`")
		}
		if v != "continue" {
			return fmt.Errorf("invalid pod exit policy: %q", v)
		}
		return nil
	})
	list(f, "publish", "p", "Publish ports of the pod to the host", func(v string) error {
		ports, err := parsePorts(v)
		n.Ports = append(n.Ports, ports...)
		return err
	})
	o.networks.declare(f)
	f.StringVarP(&s.Hostname, "hostname", "h", "", "Host name of the pod (default: its name)")
	list(f, "add-host", "", "Add a custom host-to-IP mapping (host:ip)", appendTo(&n.AddHosts, parseHost))
	list(f, "dns", "", "Set custom DNS servers", appendTo(&n.DNS, parseIP))
	list(f, "dns-search", "", "Set custom DNS search domains (. for none)", appendTo(&n.Search, oneWord))
	list(f, "dns-option", "", "Set DNS options", appendTo(&n.DNSOptions, oneWord))
	f.BoolVar(&n.NoHosts, "no-hosts", false, "Make no /etc/hosts for the pod")
	parsed(f, "pid", "", "string", "PID namespace of the infra container: private, host or container:NAME", assign(&s.PID, plain))
	parsed(f, "uts", "", "string", "UTS namespace of the infra container: private, host or container:NAME", assign(&s.UTS, plain))
	parsed(f, "shm-size", "", "bytes", "Size of /dev/shm", assign(&s.ShmSize, parseBytes))
	parsed(f, "sysctl", "", "map", "Sysctl options", pairs("sysctl", &s.Sysctls))
	parsed(f, "isolation", "", "level", "Boundary of the pod and of its containers: container, gvisor or vm (env BRIG_ISOLATION)", assign(&s.Isolation, parseIsolation))
	parsed(f, "memory", "m", "bytes", "Memory of the pod, where it is a virtual machine or a Sentry", assign(&s.Limits.Memory, parseBytes))
	parsed(f, "cpus", "", "decimal", "Number of CPUs of the pod, where it is a virtual machine or a Sentry", assign(&s.Limits.NanoCPUs, parseCPUs))
	list(f, "volume", "v", "Mount a volume in every container of the pod", appendTo(&s.Mounts, a.parseVolume))
}

// finish makes the spec of what was given.
func (o *podFlags) finish(f *pflag.FlagSet, args []string) (err error) {
	s := &o.spec
	if len(args) > 0 {
		if s.Name != "" && s.Name != args[0] {
			return errors.New("conflicting options: cannot specify a pod name through both --name and as an argument")
		}
		s.Name = args[0]
	}
	if o.replace && s.Name == "" {
		return errors.New("cannot replace a pod without a name being set")
	}
	if s.Labels, err = labels(o.labelFiles, o.labels); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if m.Source == "" {
			return fmt.Errorf("volume %s: a pod's volumes need a name, or a folder of the host: each container has anonymous ones of its own", m.Target)
		}
	}
	if err := o.networks.enter(&s.Network); err != nil {
		return err
	}
	if err := podIsolation(f, &s.Isolation); err != nil {
		return err
	}
	s.NoInfra, s.NoShareParent = !o.infra, !o.shareParent
	if s.NoInfra && f.Changed("share") && o.share != "none" && o.share != "" {
		return errors.New("cannot set share(s) without an infra container")
	}
	s.Share, err = parseShare(o.share)
	return err
}

// podIsolation takes a pod's level from the environment where no flag says it.
func podIsolation(f *pflag.FlagSet, level *api.Isolation) (err error) {
	if *level, err = isolationOf(f, *level); err != nil {
		return err
	}
	if *level == isolationUserNS {
		return api.Errorf(api.Unsupported, "the containers of a pod cannot have a user namespace in common: make the pod of isolation level container, gvisor or vm")
	}
	return nil
}

// parseShare reads podman's list of namespaces.
func parseShare(v string) (share []string, err error) {
	if more, add := strings.CutPrefix(v, "+"); add {
		v = api.ShareIPC + "," + api.ShareNet + "," + api.ShareUTS + "," + more
	}
	if v == "" || v == "none" {
		return nil, nil
	}
	for s := range strings.SplitSeq(v, ",") {
		switch s {
		case api.ShareIPC, api.ShareNet, api.ShareUTS, api.SharePID:
		case "user", "cgroup", "mnt":
			return nil, api.Errorf(api.Unsupported, "--share %s is not supported: share ipc, net, uts and pid", s)
		default:
			return nil, fmt.Errorf("invalid kernel namespace to share: %s: options are: ipc, net, pid, uts or none", s)
		}
		if !slices.Contains(share, s) {
			share = append(share, s)
		}
	}
	return share, nil
}

// podOf makes the pod that --pod new:NAME means, with the container's ports and network, which are the pod's then. undo removes it again.
func (o *specFlags) podOf(cmd *cobra.Command, s *api.ContainerSpec) (undo func(), err error) {
	undo = func() {}
	if o.podFile != "" {
		if s.Pod != "" {
			return undo, errors.New("conflicting options: --pod and --pod-id-file")
		}
		data, err := os.ReadFile(o.podFile)
		if err != nil {
			return undo, fmt.Errorf("pod ID file: %w", err)
		}
		s.Pod = strings.TrimSpace(string(data))
	}
	name, fresh := strings.CutPrefix(s.Pod, "new:")
	if !fresh {
		return undo, nil
	}
	share, _ := parseShare("ipc,net,uts")
	n := &s.Network
	spec := api.PodSpec{Name: name, Share: share, Hostname: s.Hostname, Isolation: s.Isolation, Network: api.NetworkSpec{
		Mode: n.Mode, Ports: n.Ports, DNS: n.DNS, Search: n.Search, DNSOptions: n.DNSOptions, AddHosts: n.AddHosts,
	}}
	p, err := o.app.engine().CreatePod(cmd.Context(), spec)
	if err != nil {
		return undo, err
	}
	s.Pod, s.Hostname, *n = p.ID, "", api.NetworkSpec{Expose: n.Expose, NoHosts: n.NoHosts}
	return func() { _ = o.app.engine().RemovePod(cmd.Context(), p.ID, true, nil) }, nil
}
