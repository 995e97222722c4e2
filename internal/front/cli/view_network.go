package cli

import (
	"net/netip"

	"brig/api"
)

// networkInspection is a network as docker network inspect prints it.
type networkInspection struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       networkIPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]networkContainer
	Options    map[string]string
	Labels     map[string]string

	DNSEnabled bool // podman's dns_enabled
}

type networkIPAM struct {
	Driver  string
	Options map[string]string
	Config  []networkConfig
}

type networkConfig struct {
	Subnet  string
	IPRange string `json:",omitempty"`
	Gateway string `json:",omitempty"`
}

type networkContainer struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

func viewOfNetwork(n *api.Network) networkInspection {
	v := networkInspection{
		Name: n.Name, ID: n.ID, Created: dockerTime(n.Created), Scope: "local", Driver: n.Driver, EnableIPv4: true, IPAM: networkIPAM{Driver: "default", Options: map[string]string{}, Config: []networkConfig{}},
		Internal: n.Internal, Containers: map[string]networkContainer{}, Options: map[string]string{}, Labels: map[string]string{}, DNSEnabled: !n.NoDNS && !isPredefined(n.Name),
	}
	for k, val := range n.Options {
		v.Options[k] = val
	}
	for k, val := range n.Labels {
		v.Labels[k] = val
	}
	for _, s := range n.Subnets {
		c := networkConfig{Subnet: s.Prefix.String()}
		if s.Range.IsValid() {
			c.IPRange = s.Range.String()
		}
		if s.Gateway.IsValid() {
			c.Gateway = s.Gateway.String()
		}
		v.IPAM.Config = append(v.IPAM.Config, c)
		v.EnableIPv6 = v.EnableIPv6 || s.Prefix.Addr().Is6()
	}
	for _, u := range n.Users {
		c := networkContainer{Name: u.Name, EndpointID: endpointID(u.ID, n.ID), MacAddress: u.MAC}
		for _, a := range u.Addresses {
			if a.Addr().Is4() {
				c.IPv4Address = a.String()
			} else {
				c.IPv6Address = a.String()
			}
		}
		v.Containers[u.ID] = c
	}
	return v
}

// endpointID is an ID of 64 digits for a container on a network, the same as long as it is there; Brig itself needs none.
func endpointID(container, network string) string {
	if len(container) < 32 || len(network) < 32 {
		return ""
	}
	return container[:32] + network[:32]
}

// inspectIPAM is what was asked for of a place's addresses.
type inspectIPAM struct {
	IPv4Address string `json:",omitempty"`
	IPv6Address string `json:",omitempty"`
}

// viewOfPlace is a place on a network as docker inspect prints it: asked is what was asked for, nil: nothing.
func viewOfPlace(c *api.Container, e *api.Endpoint, asked *api.EndpointSpec) inspectEndpoint {
	v := inspectEndpoint{NetworkID: e.NetworkID, MacAddress: e.MAC, DNSNames: e.Names, GwPriority: &e.Priority}
	if e.NetworkID != "" && len(e.Addresses) > 0 {
		v.EndpointID = endpointID(c.ID, e.NetworkID)
	}
	if asked != nil {
		v.Aliases, v.GwPriority = asked.Aliases, &asked.Priority
		if asked.IPv4 != "" || asked.IPv6 != "" {
			v.IPAMConfig = &inspectIPAM{asked.IPv4, asked.IPv6}
		}
	}
	for _, prefix := range e.Addresses {
		v.add(prefix)
	}
	for _, g := range e.Gateways {
		v.gateway(g)
	}
	return v
}

func (e *inspectEndpoint) gateway(g netip.Addr) {
	if g.Is4() {
		e.Gateway = g.String()
	} else {
		e.IPv6Gateway = g.String()
	}
}
