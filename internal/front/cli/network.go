package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) networkGroup() *cobra.Command {
	return a.group("network", "Manage networks", "  brig network create blue\n  brig run -d --network blue --name web nginx", []member{
		{name: "connect", construct: (*app).networkConnect}, {name: "create", construct: (*app).networkCreate}, {name: "disconnect", construct: (*app).networkDisconnect},
		{name: "exists", construct: (*app).networkExists}, {name: "inspect", construct: (*app).networkInspect}, {name: "ls", construct: (*app).networkList, aliases: []string{"list"}},
		{name: "prune", construct: (*app).networkPrune}, {name: "rm", construct: (*app).networkRemove, aliases: []string{"remove"}},
	})
}

// networkFlags are what network create says of subnets, in the order in which it says so.
type networkFlags struct {
	subnets, gateways, ranges []string
	labels, options           []string
	ipv4, ipv6                bool
}

func (a *app) networkCreate() *cobra.Command {
	var n api.Network
	var o networkFlags
	var ignore bool
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Long: "Create a network for containers. It has an IPv4 and an IPv6 subnet; those that are not given are chosen so that nothing on this host uses them.\n" +
			"Containers on it find one another by their names, and are found by nobody else.",
		Example:           "  brig network create blue\n  brig network create --subnet 10.5.0.0/24 --gateway 10.5.0.254 --internal inside\n  brig network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 lan",
		Args:              exactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			n.Name = args[0]
			if n.Labels, err = labels(nil, o.labels); err != nil {
				return err
			}
			if n.Options, err = labels(nil, o.options); err != nil {
				return err
			}
			if !o.ipv4 {
				return api.Errorf(api.Unsupported, "--ipv4=false is not supported: every network has IPv4")
			}
			n.IPv4Only = !o.ipv6
			if n.Subnets, err = o.parse(); err != nil {
				return err
			}
			made, err := a.engine().CreateNetwork(cmd.Context(), n)
			if ignore && errors.Is(err, api.AlreadyExists) {
				made, err = a.engine().InspectNetwork(cmd.Context(), n.Name)
			}
			if err != nil {
				return err
			}
			a.printf("%s\n", made.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&n.NoDNS, "disable-dns", false, "Do not answer look-ups of names")
	f.StringVarP(&n.Driver, "driver", "d", api.DriverBridge, "Driver to manage the Network: bridge, macvlan or ipvlan")
	list(f, "gateway", "", "IPv4 or IPv6 Gateway for the master subnet", appendTo(&o.gateways, plain))
	f.BoolVar(&ignore, "ignore", false, "Do not complain about a network that is there already")
	f.BoolVar(&n.Internal, "internal", false, "Restrict external access to the network")
	list(f, "ip-range", "", "Allocate container ip from a sub-range", appendTo(&o.ranges, plain))
	f.BoolVar(&o.ipv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	f.BoolVar(&o.ipv6, "ipv6", true, "Enable or disable IPv6 address assignment")
	list(f, "label", "", "Set metadata on a network", appendTo(&o.labels, plain))
	list(f, "opt", "o", "Set driver specific options", appendTo(&o.options, plain))
	list(f, "subnet", "", "Subnet in CIDR format that represents a network segment", appendTo(&o.subnets, plain))
	return cmd
}

// parse puts gateways and ranges to the subnets that they are in.
func (o *networkFlags) parse() (subnets []api.Subnet, err error) {
	for _, text := range split(o.subnets) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: use an address and a number of bits, as in 10.5.0.0/24", text)
		}
		subnets = append(subnets, api.Subnet{Prefix: p})
	}
	find := func(what string, a netip.Addr) (*api.Subnet, error) {
		for i := range subnets {
			if subnets[i].Prefix.Contains(a) {
				return &subnets[i], nil
			}
		}
		return nil, fmt.Errorf("no matching subnet for %s %s: name one with --subnet", what, a)
	}
	for _, text := range split(o.gateways) {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid gateway %s: use an IP address", text)
		}
		s, err := find("gateway", a)
		if err != nil {
			return nil, err
		}
		if s.Gateway.IsValid() {
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", s.Gateway, a, s.Prefix)
		}
		s.Gateway = a
	}
	for _, text := range split(o.ranges) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid IP range %s: use an address and a number of bits, as in 10.5.0.128/25", text)
		}
		s, err := find("range", p.Addr())
		if err != nil {
			return nil, err
		}
		if s.Range.IsValid() {
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", s.Range, p, s.Prefix)
		}
		s.Range = p
	}
	return subnets, nil
}

// split takes lists apart that commas hold together, as docker does.
func split(values []string) (all []string) {
	for _, v := range values {
		all = append(all, strings.Split(v, ",")...)
	}
	return all
}

func (a *app) networkInspect() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short:             "Display detailed information on one or more networks",
		Example:           "  brig network inspect blue\n  brig network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}' blue",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeNetworks(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			views := []any{}
			failed := a.each(cmd.Context(), args, func(name string) (string, error) {
				n, err := a.engine().InspectNetwork(cmd.Context(), name)
				if err != nil {
					return "", err
				}
				if format != "" {
					return "", printObject(a.streams.Stdout, format, viewOfNetwork(&n))
				}
				views = append(views, viewOfNetwork(&n))
				return "", nil
			})
			if format == "" {
				return errors.Join(printPretty(a.streams.Stdout, views), failed)
			}
			return failed
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}

// networkRow is a network as ls shows it; the field names are docker's.
type networkRow struct {
	CreatedAt, Driver, ID, IPv4, IPv6, Internal, Labels, Name, Scope string

	labels map[string]string
}

// Label returns one label's value, for {{.Label "key"}}.
func (r networkRow) Label(key string) string { return r.labels[key] }

func (a *app) networkList() *cobra.Command {
	var quiet, noTrunc, noHeading bool
	var format string
	filter := filters{}
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List networks",
		Example:           "  brig network ls\n  brig network ls --filter type=custom -q",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := filter.checkNetworks(); err != nil {
				return err
			}
			all, err := a.engine().Networks(cmd.Context())
			if err != nil {
				return err
			}
			var rows []networkRow
			for i := range all {
				n := &all[i]
				if !filter.network(n) {
					continue
				}
				id := n.ID
				if !noTrunc {
					id = shortID(id)
				}
				six := slices.ContainsFunc(n.Subnets, func(s api.Subnet) bool { return s.Prefix.Addr().Is6() })
				rows = append(rows, networkRow{
					CreatedAt: n.Created.Local().Format("2006-01-02 15:04:05.999999999 -0700 MST"), Driver: n.Driver, ID: id, IPv4: "true", IPv6: strconv.FormatBool(six),
					Internal: strconv.FormatBool(n.Internal), Labels: labelText(n.Labels), Name: n.Name, Scope: "local", labels: n.Labels,
				})
			}
			if quiet && format == "" {
				format = "{{.ID}}"
			}
			titles := header{
				"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
			}
			if noHeading {
				titles = nil
			}
			return printRows(a.streams.Stdout, format, "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", titles, rows)
		},
	}
	f := cmd.Flags()
	list(f, "filter", "f", `Provide filter values (e.g. "driver=bridge"): dangling, driver, id, label, name, scope, type`,
		filter.add("dangling", "driver", "id", "label", "name", "scope", "type"))
	f.StringVar(&format, "format", "", formatHelp)
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate the output")
	f.BoolVar(&noHeading, "noheading", false, "Do not print headers")
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display network IDs")
	return cmd
}

// isPredefined reports whether a network is one of those that are always there.
func isPredefined(name string) bool { return name == "bridge" || name == "host" || name == "none" }

func (f filters) checkNetworks() error {
	for _, v := range f["type"] {
		if v != "custom" && v != "builtin" {
			return fmt.Errorf("invalid filter: 'type'='%s': the types are custom and builtin", v)
		}
	}
	for _, v := range f["dangling"] {
		if _, err := strconv.ParseBool(v); err != nil {
			return fmt.Errorf("invalid filter 'dangling=%s': use true or false", v)
		}
	}
	return nil
}

// network reports whether a network passes every filter.
func (f filters) network(n *api.Network) bool {
	return f.any("name", func(s string) bool { return strings.Contains(n.Name, s) }) &&
		f.any("id", func(s string) bool { return strings.HasPrefix(n.ID, s) }) &&
		f.any("driver", func(s string) bool { return n.Driver == s }) &&
		f.any("scope", func(s string) bool { return s == "local" }) &&
		f.any("type", func(s string) bool { return (s == "builtin") == isPredefined(n.Name) }) &&
		f.any("dangling", func(s string) bool {
			want, _ := strconv.ParseBool(s)
			return want == (len(n.Users) == 0 && !isPredefined(n.Name))
		}) &&
		f.labelled(n.Labels)
}

func (a *app) networkRemove() *cobra.Command {
	var force bool
	var seconds int
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] NETWORK [NETWORK...]",
		Short:             "Remove one or more networks",
		Long:              "Remove one or more networks. A network that a container is on, whether it runs or not, is not removed.",
		Example:           "  brig network rm blue\n  brig network rm $(brig network ls -q --filter dangling=true)",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeNetworks(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			empty := cmd.Flags().Changed("time")
			if empty && !force {
				return invalid(cmd, errors.New("--force must be given with --time"))
			}
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				if empty {
					if err := a.emptyNetwork(cmd.Context(), name, seconds); err != nil {
						return name, err
					}
				}
				err := a.engine().RemoveNetwork(cmd.Context(), name)
				if force && errors.Is(err, api.NotFound) {
					err = nil
				}
				return name, err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	cmd.Flags().IntVarP(&seconds, "time", "t", 0, "With --force: remove the containers and pods on the network too, after so many seconds to stop")
	return cmd
}

// emptyNetwork removes the containers that are on a network, and the pods whose containers are, as podman's network rm --force does. A network that is not there has none.
func (a *app) emptyNetwork(ctx context.Context, name string, seconds int) error {
	n, err := a.engine().InspectNetwork(ctx, name)
	if errors.Is(err, api.NotFound) || err == nil && isPredefined(n.Name) { // which RemoveNetwork refuses
		return nil
	}
	if err != nil {
		return err
	}
	all, err := a.engine().List(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		c := &all[i]
		if !slices.ContainsFunc(c.Spec.Network.Networks, func(e api.EndpointSpec) bool { return e.Network == n.Name }) {
			continue
		}
		if c.Spec.Pod != "" {
			err = a.engine().RemovePod(ctx, c.Spec.Pod, true, &seconds)
		} else if err = a.engine().Stop(ctx, c.ID, api.StopOptions{Timeout: &seconds}); err == nil {
			err = a.engine().Remove(ctx, c.ID, true, false)
		}
		if err != nil && !errors.Is(err, api.NotFound) {
			return err
		}
	}
	return nil
}

func (a *app) networkPrune() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all unused networks",
		Example:           "  brig network prune\n  brig network prune -f --filter until=24h",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.sure(p.force, "WARNING! This will remove all custom networks not used by at least one container.") {
				return nil
			}
			r, err := a.engine().PruneNetworks(cmd.Context(), p.filter)
			if len(r.Networks) > 0 {
				a.printf("Deleted Networks:\n%s\n\n", strings.Join(r.Networks, "\n"))
			}
			return err
		},
	}
	p.declare(cmd, `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

func (a *app) networkExists() *cobra.Command {
	return &cobra.Command{
		Use:               "exists NETWORK",
		Short:             "Tell by the exit status whether a network exists",
		Example:           "  brig network exists blue || brig network create blue",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeNetworks(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := a.engine().InspectNetwork(cmd.Context(), args[0])
			if errors.Is(err, api.NotFound) {
				return &exitError{code: codeFailed}
			}
			return err
		},
	}
}

func (a *app) networkConnect() *cobra.Command {
	var e api.EndpointSpec
	cmd := &cobra.Command{
		Use:               "connect [OPTIONS] NETWORK CONTAINER",
		Short:             "Connect a container to a network",
		Long:              "Connect a container to a network, at once if it runs, and for as long as it is there.",
		Example:           "  brig network connect blue web\n  brig network connect --ip 10.5.0.7 --alias db blue postgres",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeEndpoint,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().ConnectNetwork(cmd.Context(), args[0], args[1], e)
		},
	}
	f := cmd.Flags()
	list(f, "alias", "", "Add network-scoped alias for the container", appendTo(&e.Aliases, plain))
	f.IntVar(&e.Priority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values")
	parsed(f, "ip", "", "string", `IPv4 address (e.g., "172.30.100.104")`, assign(&e.IPv4, family(false)))
	parsed(f, "ip6", "", "string", `IPv6 address (e.g., "2001:db8::33")`, assign(&e.IPv6, family(true)))
	parsed(f, "mac-address", "", "string", "MAC address on the network", assign(&e.MAC, plain))
	return cmd
}

func (a *app) networkDisconnect() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "disconnect [OPTIONS] NETWORK CONTAINER",
		Short:             "Disconnect a container from a network",
		Example:           "  brig network disconnect blue web",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeEndpoint,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().DisconnectNetwork(cmd.Context(), args[0], args[1], force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}

// completeNetworks offers the names of networks that are not there already.
func (a *app) completeNetworks(all bool) completer {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		list, err := a.engine().Networks(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, n := range list {
			if all || !isPredefined(n.Name) {
				names = append(names, n.Name)
			}
		}
		return offer(names, args, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeEndpoint offers a network, then a container.
func (a *app) completeEndpoint(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeNetworks(true)(cmd, args, begun)
	}
	return a.completeContainers(nil)(cmd, args[1:], begun)
}
