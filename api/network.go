package api

import (
	"net/netip"
	"os"
)

// NetworkSpec is what a container asks of the network.
type NetworkSpec struct {
	Mode     string     `json:"mode,omitempty"` // bridge (default), none, host, container:ID, ns:PATH
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
}

// HostSpec is one --add-host: a line of /etc/hosts.
type HostSpec struct {
	Name string `json:"name"`
	IP   string `json:"ip"` // or host-gateway: the host's address on the bridge
}

// PortSpec publishes one port of the container.
type PortSpec struct {
	HostIP        string `json:"hostIP,omitempty"`   // empty: all addresses, IPv4 and IPv6
	HostPort      uint16 `json:"hostPort,omitempty"` // 0: a free one
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp or udp
}

// Link is a container's place on a network: what the network room hands to the runtime.
type Link struct {
	Network string `json:"network"` // bridge, none or host

	// NetNS is the network namespace that the sandbox runs in; nil for the host's own (mode host).
	// The namespace, and the interface in it, live as long as a process or an open file holds it.
	NetNS *os.File `json:"-"`
	// Held are sockets that keep published ports reserved on the host; the sandbox keeps them open as long as it lives.
	Held []*os.File `json:"-"`

	Interface  string         `json:"interface,omitempty"` // in the container: eth0
	MAC        string         `json:"mac,omitempty"`
	Addresses  []netip.Prefix `json:"addresses,omitempty"` // IPv4 first
	Gateways   []netip.Addr   `json:"gateways,omitempty"`
	DNS        []string       `json:"dns,omitempty"`
	Search     []string       `json:"search,omitempty"`
	DNSOptions []string       `json:"dnsOptions,omitempty"`
	Ports      []PortSpec     `json:"ports,omitempty"` // as published: host ports filled in, one entry an address family
}
