package api

import (
	"net/netip"
	"os"
	"time"
)

// NetworkSpec is what a container asks of the network.
type NetworkSpec struct {
	Mode     string     `json:"mode,omitempty"` // bridge (default), none, host, container:ID, ns:PATH; NetworkOwn: Networks alone
	Ports    []PortSpec `json:"ports,omitempty"`
	DNS      []string   `json:"dns,omitempty"` // addresses of name servers; none: the host's
	AddHosts []HostSpec `json:"addHosts,omitempty"`

	Search     []string `json:"search,omitempty"`     // search domains; none: the host's; "." alone: none at all
	DNSOptions []string `json:"dnsOptions,omitempty"` // of resolv.conf(5); none: the host's
	NoHosts    bool     `json:"noHosts,omitempty"`    // /etc/hosts is the image's
	Expose     []string `json:"expose,omitempty"`     // PORT/PROTOCOL, beside the image's
	PublishAll bool     `json:"publishAll,omitempty"` // what is exposed is published, on free ports

	// Namespace is the network namespace to furnish: one that belongs to the container's user namespace. Nil: a new one. It is the caller's to close.
	Namespace *os.File `json:"-"`
	// Networks are networks of one's own, beside the default bridge with mode bridge. Of those that lead out the one with the highest priority, and among equals the first by
	// name, is the way to all else.
	Networks []EndpointSpec `json:"networks,omitempty"`
	// MAC is the Ethernet address on the default bridge; empty: one that follows from the IPv4 address.
	MAC string `json:"mac,omitempty"`
	// Priority is that of the default bridge: see EndpointSpec.
	Priority int `json:"priority,omitempty"`
	// Names are those by which others on the networks find the container, its own first, beside its aliases.
	Names []string `json:"-"`
}

// NetworkOwn is the mode of a container that is on networks of one's own and not on the default bridge.
const NetworkOwn = "own"

// EndpointSpec is a place on a network of one's own that a container asks for. What is empty is chosen.
type EndpointSpec struct {
	Network string   `json:"network"` // name
	Aliases []string `json:"aliases,omitempty"`
	IPv4    string   `json:"ipv4,omitempty"`
	IPv6    string   `json:"ipv6,omitempty"`
	MAC     string   `json:"mac,omitempty"`

	Priority int `json:"priority,omitempty"` // as the way to all that is on none of the networks: the highest has it
}

// Network is a network of one's own.
type Network struct {
	ID       string            `json:"id"` // 64 hexadecimal digits
	Name     string            `json:"name"`
	Driver   string            `json:"driver"` // DriverBridge, DriverMacvlan or DriverIPvlan
	Created  time.Time         `json:"created"`
	Subnets  []Subnet          `json:"subnets"` // IPv4 first, at most one of each family
	Internal bool              `json:"internal,omitempty"`
	NoDNS    bool              `json:"noDNS,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Options  map[string]string `json:"options,omitempty"` // of the driver, as given

	IPv4Only bool `json:"ipv4Only,omitempty"` // to be made without an IPv6 subnet

	Users []NetworkUser `json:"-"` // containers that run on it
}

// The drivers of networks. The predefined networks host and none have drivers of their names.
const (
	DriverBridge  = "bridge"
	DriverMacvlan = "macvlan"
	DriverIPvlan  = "ipvlan"
)

// Subnet is a range of addresses of a network.
type Subnet struct {
	Prefix  netip.Prefix `json:"prefix"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Range   netip.Prefix `json:"range,omitzero"` // that containers get addresses from; zero: all of it
}

// NetworkUser is a container on a network.
type NetworkUser struct {
	ID, Name string // of the container
	Endpoint
}

// HostSpec is one --add-host: a line of /etc/hosts.
type HostSpec struct {
	Name string `json:"name"`
	IP   string `json:"ip"` // or host-gateway: the host's address on the bridge
}

// PortSpec publishes one port of the container.
type PortSpec struct {
	HostIP        string `json:"hostIP,omitempty"`      // empty: all addresses, IPv4 and IPv6
	HostPort      uint16 `json:"hostPort,omitempty"`    // 0: a free one
	HostPortEnd   uint16 `json:"hostPortEnd,omitempty"` // the last of a range, from HostPort on, of which the first free one is taken; 0: HostPort alone
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
}

// Link is a container's place on a network: what the network room hands to the runtime.
type Link struct {
	Network string `json:"network"` // bridge, none, host or NetworkOwn; without root's rights also pasta or slirp4netns, on which nobody else is

	// NetNS is the network namespace that the sandbox runs in; nil for the host's own (mode host).
	// The namespace, and the interface in it, live as long as a process or an open file holds it.
	NetNS *os.File `json:"-"`
	// Held are sockets that keep published ports reserved on the host; the sandbox keeps them open as long as it lives.
	Held []*os.File `json:"-"`
	// Resolver are the UDP and the TCP socket by which the container's keeper answers look-ups of names, and Names the folder that it answers from;
	// none where the container asks others.
	Resolver []*os.File `json:"-"`
	Names    string     `json:"names,omitempty"`
	// Bridges is the network namespace in which a normal user's bridges are, which the sandbox keeps open too, and BridgesFile the file in which it says so; none
	// where they are the host's, or the container is on none.
	Bridges     *os.File `json:"-"`
	BridgesFile string   `json:"-"`
	// Host are the host's addresses as a container sees them that reaches it by no gateway, if they were asked for.
	Host []netip.Addr `json:"-"`

	// The place on the default bridge, where there is one.
	Interface  string         `json:"interface,omitempty"` // in the container: eth0
	MAC        string         `json:"mac,omitempty"`
	Addresses  []netip.Prefix `json:"addresses,omitempty"` // IPv4 first
	Gateways   []netip.Addr   `json:"gateways,omitempty"`
	Priority   int            `json:"priority,omitempty"`
	DNS        []string       `json:"dns,omitempty"`
	Search     []string       `json:"search,omitempty"`
	DNSOptions []string       `json:"dnsOptions,omitempty"`
	Ports      []PortSpec     `json:"ports,omitempty"` // as published: host ports filled in, one entry an address family

	Endpoints []Endpoint `json:"endpoints,omitempty"` // the places on networks of one's own
}

// All are the container's places on networks, that on the default bridge, or on a network of no other container's, first.
func (l *Link) All() []Endpoint {
	if l.Interface == "" {
		return l.Endpoints
	}
	first := Endpoint{Network: l.Network, Driver: l.Network, Interface: l.Interface, MAC: l.MAC, Addresses: l.Addresses, Gateways: l.Gateways, Priority: l.Priority}
	return append([]Endpoint{first}, l.Endpoints...)
}

// Endpoint is a container's place on a network.
type Endpoint struct {
	Network   string         `json:"network"`
	NetworkID string         `json:"networkID"`
	Driver    string         `json:"driver,omitempty"`
	Interface string         `json:"interface"`
	MAC       string         `json:"mac,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"` // IPv4 first
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
	Names     []string       `json:"names,omitempty"` // by which others on the network find the container, its own first
	Internal  bool           `json:"internal,omitempty"`
	Priority  int            `json:"priority,omitempty"` // EndpointSpec.Priority
}
