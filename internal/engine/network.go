package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/base/rootless"
	"brig/internal/network"
	"brig/internal/runtime/shim"
	"brig/internal/store/garbage"
)

// bridgeNetwork is the default bridge among the networks.
const bridgeNetwork = "bridge"

// CreateNetwork makes a network. api.AlreadyExists for one of that name, which stays as it is.
func (e *Engine) CreateNetwork(_ context.Context, n api.Network) (api.Network, error) {
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return n, err
	}
	n, err := e.network.Create(n)
	if err != nil {
		return n, err
	}
	if e.makeState() == nil { // for the journal
		e.note(networkHappened(&n, "create", ""))
	}
	return n, nil
}

// networkHappened is an event of a network; container is the ID of the container that it is about, if it is.
func networkHappened(n *api.Network, action, container string) api.Event {
	attributes := map[string]string{"name": n.Name, "type": n.Driver}
	if container != "" {
		attributes["container"] = container
	}
	return api.Event{Time: time.Now().UTC(), Type: "network", Action: action, ID: n.ID, Attributes: attributes}
}

// Networks lists all networks, the predefined ones among them, by name, with the containers that run on each.
func (e *Engine) Networks(ctx context.Context) ([]api.Network, error) {
	all, err := e.network.Networks()
	if err != nil {
		return nil, err
	}
	all = append(all, e.network.Predefined()...)
	slices.SortFunc(all, func(a, b api.Network) int { return strings.Compare(a.Name, b.Name) })
	return all, e.fillUsers(ctx, all)
}

// fillUsers enters the containers that run into networks.
func (e *Engine) fillUsers(ctx context.Context, all []api.Network) error {
	list, err := e.List(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Link == nil {
			continue
		}
		places := c.Link.All()
		if len(places) == 0 {
			places = []api.Endpoint{{Network: c.Link.Network}}
		}
		for _, place := range places {
			if i := slices.IndexFunc(all, func(n api.Network) bool { return n.Name == place.Network }); i >= 0 {
				all[i].Users = append(all[i].Users, api.NetworkUser{ID: c.ID, Name: c.Name, Endpoint: place})
			}
		}
	}
	return nil
}

// InspectNetwork finds a network by its name, its ID or the beginning of its ID.
func (e *Engine) InspectNetwork(ctx context.Context, name string) (api.Network, error) {
	n, err := e.network.Network(name)
	if err != nil {
		return n, err
	}
	one := []api.Network{n}
	err = e.fillUsers(ctx, one)
	return one[0], err
}

// networkUsers are the containers of each network, for who keeps others from being made. A container whose record is damaged may be on any.
func (e *Engine) networkUsers() (map[string][]string, error) {
	users := map[string][]string{}
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c, _, err := e.meta.Record(id)
		if err != nil {
			return nil, api.Errorf(api.KindOf(err), "no network can be removed while nobody knows which ones container %.12s is on; remove it with `brig rm -f %s`: %w", id, id, err)
		}
		for _, n := range c.Spec.Network.Networks {
			users[n.Network] = append(users[n.Network], id)
		}
	}
	return users, nil
}

// RemoveNetwork removes a network that no container is on, whether it runs or not.
func (e *Engine) RemoveNetwork(_ context.Context, name string) error {
	n, err := e.network.Network(name)
	if err != nil && !errors.Is(err, api.Corrupt) {
		return err
	}
	if n.Name == "" {
		n.Name = name
	}
	still, err := e.meta.Still()
	if err != nil {
		return err
	}
	defer still.Release()
	users, err := e.networkUsers()
	if err != nil {
		return err
	}
	return e.removeUnused(&n, users)
}

// removeUnused removes a network, for who keeps others from being made.
func (e *Engine) removeUnused(n *api.Network, users map[string][]string) error {
	if ids := users[n.Name]; len(ids) > 0 {
		return api.Errorf(api.Conflict, "error while removing network: network %s has active endpoints: containers %s are on it: remove them, or take them off it with `brig network disconnect`", n.Name, shortened(ids))
	}
	if err := e.network.Remove(n.Name); err != nil {
		return err
	}
	e.note(networkHappened(n, "destroy", ""))
	return nil
}

func shortened(ids []string) string {
	var short []string
	for _, id := range ids {
		short = append(short, fmt.Sprintf("%.12s", id))
	}
	return strings.Join(short, ", ")
}

// PruneNetworks removes the networks that no container is on.
func (e *Engine) PruneNetworks(ctx context.Context, o api.PruneOptions) (api.PruneReport, error) {
	var report api.PruneReport
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return report, err
	}
	all, err := e.network.Networks()
	if err != nil || len(all) == 0 {
		return report, err
	}
	still, err := e.meta.Still()
	if err != nil {
		return report, err
	}
	defer still.Release()
	users, err := e.networkUsers()
	if err != nil {
		return report, err
	}
	var errs []error
	for i := range all {
		if n := &all[i]; len(users[n.Name]) == 0 && selected(o, n.Created, n.Labels) {
			if err := e.removeUnused(n, users); err != nil {
				errs = append(errs, err)
				continue
			}
			report.Networks = append(report.Networks, n.Name)
		}
	}
	return report, errors.Join(append(errs, ctx.Err())...)
}

// nameNetworks has a container's networks called by their names, and looks that they are there.
func (e *Engine) nameNetworks(s *api.NetworkSpec) error {
	if len(s.Networks) == 0 {
		return nil
	}
	s.Networks = slices.Clone(s.Networks)
	for i := range s.Networks {
		n, err := e.network.Network(s.Networks[i].Network)
		if err != nil {
			return err
		}
		s.Networks[i].Network = n.Name
	}
	return nil
}

// checkNetworks looks once more that a container's networks are there, when its record keeps them from being removed.
func (e *Engine) checkNetworks(c *api.Container) error {
	for _, n := range c.Spec.Network.Networks {
		if _, err := e.network.Network(n.Network); err != nil {
			return err
		}
	}
	return nil
}

// networkSpec is what a container asks of the network, with the names by which others find it: docker's.
func networkSpec(c *api.Container) api.NetworkSpec {
	s := c.Spec.Network
	if len(s.Networks) > 0 {
		s.Names = ownNames(c)
	}
	return s
}

func ownNames(c *api.Container) []string {
	names := []string{c.Name, c.ID[:12]}
	if c.Spec.Hostname != "" {
		names = append(names, c.Spec.Hostname)
	}
	return names
}

// ConnectNetwork puts a container on a network, at once if it runs, and whenever it is started.
func (e *Engine) ConnectNetwork(ctx context.Context, name, container string, place api.EndpointSpec) error {
	n, err := e.network.Network(name)
	if err != nil {
		return err
	}
	c, l, err := e.held(container)
	if err != nil {
		return err
	}
	defer l.Release()
	if err := e.fixedNetwork(&c); err != nil {
		return err
	}
	place.Network = n.Name
	old := c.Spec.Network
	spec, err := withPlace(&c, place)
	if err != nil {
		return err
	}
	c.Spec.Network = spec
	undo := func() error { return nil }
	if e.isRunning(c.ID) {
		if undo, err = e.connectLive(ctx, &c, place); err != nil {
			return err
		}
	}
	still, err := e.meta.Still() // so that the network is not removed meanwhile
	if err != nil {
		return errors.Join(err, undo())
	}
	defer still.Release()
	if n.Name != bridgeNetwork {
		err = e.checkNetworks(&c)
	}
	if err == nil {
		err = e.meta.PutContainer(c, durability(&c))
	}
	if err != nil {
		c.Spec.Network = old
		return errors.Join(err, undo())
	}
	e.note(networkHappened(&n, "connect", c.ID))
	return nil
}

// withPlace is what a container asks for with one more place.
func withPlace(c *api.Container, place api.EndpointSpec) (api.NetworkSpec, error) {
	s := c.Spec.Network
	s.Networks = slices.Clone(s.Networks)
	onBridge := isOnBridge(&s)
	switch {
	case c.State.Status == api.StatusDead:
		return s, api.Errorf(api.Conflict, "container %s is dead: all that can be done with it is `brig rm -f %s`", c.ID, c.ID)
	case place.Network == "host" || s.Mode == "host":
		return s, api.Errorf(api.InvalidArgument, "container cannot be disconnected from host network or connected to host network")
	case strings.HasPrefix(s.Mode, api.NamespaceContainer) || strings.HasPrefix(s.Mode, api.NamespacePath):
		return s, api.Errorf(api.InvalidArgument, "container sharing network namespace with another container or host cannot be connected to any other network")
	case place.Network == "none" || s.Mode == "none":
		return s, api.Errorf(api.InvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case place.Network == bridgeNetwork && onBridge, slices.ContainsFunc(s.Networks, func(e api.EndpointSpec) bool { return e.Network == place.Network }):
		return s, api.Errorf(api.Conflict, "endpoint with name %s already exists in network %s", c.Name, place.Network)
	case place.Network == bridgeNetwork:
		if len(place.Aliases) > 0 || place.IPv4 != "" || place.IPv6 != "" {
			return s, api.Errorf(api.InvalidArgument, "aliases and addresses can be chosen on networks of one's own, not on the network %s: make one with `brig network create`", bridgeNetwork)
		}
		s.Mode, s.MAC, s.Priority = bridgeNetwork, place.MAC, place.Priority
		return s, nil
	case onBridge:
		s.Mode = bridgeNetwork
	}
	s.Networks = append(s.Networks, place)
	return s, nil
}

// isOnBridge reports whether a container is on the default bridge: the network of those that name none, but for a normal user's, which then are on one of their own.
func isOnBridge(s *api.NetworkSpec) bool {
	return s.Mode == bridgeNetwork || s.Mode == "" && !rootless.User()
}

// liveNetwork is a running container's network.
type liveNetwork struct {
	dir  string // of the sandbox
	ns   *os.File
	link *api.Link
}

// enterNetwork takes up the network of a container that runs, for who holds its lock.
func (e *Engine) enterNetwork(c *api.Container) (*liveNetwork, error) {
	dir := e.sandboxDir(c.ID)
	s, err := shim.ReadState(dir)
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.Pid))
	if err != nil {
		return nil, api.Errorf(api.Conflict, "container %s has just ended: try again", c.Name)
	}
	link := readLink(dir)
	if !running(s) || link == nil { // after the descriptor is open: it is that process's
		ns.Close()
		return nil, api.Errorf(api.Conflict, "container %s has just ended: try again", c.Name)
	}
	return &liveNetwork{dir, ns, link}, nil
}

// connectLive puts a container that runs on a network, and returns what takes it off again.
func (e *Engine) connectLive(ctx context.Context, c *api.Container, place api.EndpointSpec) (func() error, error) {
	n, err := e.enterNetwork(c)
	if err != nil {
		return nil, err
	}
	defer n.ns.Close()
	spec, before := networkSpec(c), *n.link
	if err := e.network.Connect(ctx, c.ID, n.ns, n.link, spec, place); err != nil {
		return nil, err
	}
	undo := func() error {
		again, err := e.enterNetwork(c)
		if err != nil {
			return nil //nolint:nilerr // it has ended, and who cleans up takes it off
		}
		defer again.ns.Close()
		if err := e.network.Disconnect(context.WithoutCancel(ctx), c.ID, again.ns, n.link, spec, place.Network); err != nil {
			return err
		}
		*n.link = before
		return e.rewriteFiles(c, n)
	}
	if err := handToKeeper(ctx, n); err != nil {
		if errors.Is(err, api.InvalidArgument) {
			err = api.Errorf(api.Unsupported, "network %s: the keeper of container %s is one of an older Brig, which cannot do its part: start the container anew first", place.Network, c.Name)
		}
		return nil, errors.Join(err, undo())
	}
	if err := e.rewriteFiles(c, n); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// handToKeeper gives a container's keeper what it has to keep of its new place: see api.Link.
func handToKeeper(ctx context.Context, n *liveNetwork) (err error) {
	l := n.link
	sockets, held := l.Resolver, l.Held
	if l.Bridges != nil {
		held = append([]*os.File{l.Bridges}, held...)
	}
	l.Resolver, l.Held, l.Bridges = nil, nil, nil
	defer func() {
		for _, f := range append(sockets, held...) {
			f.Close()
		}
	}()
	if len(held) > 0 {
		err = shim.Hold(ctx, n.dir, l.BridgesFile, held)
	}
	if err == nil && len(sockets) > 0 {
		err = shim.Resolve(ctx, n.dir, l.Names, sockets)
	}
	return err
}

// rewriteFiles writes down what a running container's network has become. Of its hosts file only lines for its own addresses are added and taken away: the
// rest may be the container's.
func (e *Engine) rewriteFiles(c *api.Container, n *liveNetwork) error {
	dir := e.meta.Dir(c.ID)
	hosts, err := os.ReadFile(filepath.Join(dir, "hosts"))
	if err != nil {
		return err
	}
	old := readLink(n.dir)
	link, err := record.Marshal(n.link)
	if err != nil {
		return err
	}
	if err := writePlain(filepath.Join(n.dir, linkName), link, 0o600); err != nil {
		return err
	}
	if err := writePlain(filepath.Join(dir, "hosts"), network.ChangeHosts(hosts, hostname(c), old, n.link), 0o644); err != nil {
		return err
	}
	if slices.Equal(old.DNS, n.link.DNS) {
		return nil
	}
	return writePlain(filepath.Join(dir, "resolv.conf"), network.ResolvConf(n.link), 0o644)
}

// DisconnectNetwork takes a container off a network, at once if it runs, and for good. force: also where it cannot be taken off in its own namespace.
func (e *Engine) DisconnectNetwork(ctx context.Context, name, container string, force bool) error {
	n, err := e.network.Network(name)
	if err != nil {
		return err
	}
	c, l, err := e.held(container)
	if err != nil {
		return err
	}
	defer l.Release()
	if err := e.fixedNetwork(&c); err != nil {
		return err
	}
	s := c.Spec.Network
	s.Networks = slices.DeleteFunc(slices.Clone(s.Networks), func(e api.EndpointSpec) bool { return e.Network == n.Name })
	switch onBridge := isOnBridge(&s); {
	case n.Name == "host" || s.Mode == "host":
		return api.Errorf(api.InvalidArgument, "container cannot be disconnected from host network or connected to host network")
	case n.Name == bridgeNetwork && onBridge:
		s.Mode, s.MAC, s.Priority = api.NetworkOwn, "", 0
	case len(s.Networks) == len(c.Spec.Network.Networks):
		return api.Errorf(api.Conflict, "container %s is not connected to network %s", c.ID, n.Name)
	}
	c.Spec.Network = s
	// The record first: what is not done to one that is killed now is done at its next start.
	if err := e.meta.PutContainer(c, durability(&c)); err != nil {
		return err
	}
	if e.isRunning(c.ID) {
		err := e.disconnectLive(ctx, &c, n.Name)
		if err != nil && !(force && errors.Is(err, api.Conflict)) {
			return err
		}
	}
	e.note(networkHappened(&n, "disconnect", c.ID))
	return nil
}

func (e *Engine) disconnectLive(ctx context.Context, c *api.Container, name string) error {
	n, err := e.enterNetwork(c)
	if err != nil {
		return err
	}
	defer n.ns.Close()
	err = e.network.Disconnect(ctx, c.ID, n.ns, n.link, c.Spec.Network, name)
	return errors.Join(err, e.rewriteFiles(c, n))
}

// renameLive lets a container that runs be found by its new name.
func (e *Engine) renameLive(c *api.Container, old string) error {
	dir := e.sandboxDir(c.ID)
	link := readLink(dir)
	if len(c.Spec.Network.Networks) == 0 || link == nil || !e.isRunning(c.ID) {
		return nil
	}
	if err := e.network.Rename(c.ID, old, c.Name, link); err != nil {
		return err
	}
	data, err := record.Marshal(link)
	if err != nil {
		return err
	}
	return writePlain(filepath.Join(dir, linkName), data, 0o600)
}
