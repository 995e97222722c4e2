package cli

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"brig/api"
)

// portsText is docker's PORTS column. Published ports that follow one another on both sides are joined to a range.
func portsText(ports []api.PortSpec) string {
	ports = sortedPorts(ports)
	var text []string
	for i := 0; i < len(ports); {
		first, n := ports[i], 1
		for i+n < len(ports) && follows(first, ports[i+n], n) {
			n++
		}
		text = append(text, fmt.Sprintf("%s->%s/%s",
			net.JoinHostPort(hostIP(first), span(first.HostPort, n)), span(first.ContainerPort, n), first.Protocol))
		i += n
	}
	return strings.Join(text, ", ")
}

func sortedPorts(ports []api.PortSpec) []api.PortSpec {
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(x, y api.PortSpec) int {
		return cmp.Or(
			cmp.Compare(familyOrder(x), familyOrder(y)), cmp.Compare(x.HostIP, y.HostIP), cmp.Compare(x.Protocol, y.Protocol),
			cmp.Compare(x.ContainerPort, y.ContainerPort), cmp.Compare(x.HostPort, y.HostPort),
		)
	})
	return ports
}

// familyOrder puts IPv4 first.
func familyOrder(p api.PortSpec) int {
	if strings.Contains(p.HostIP, ":") {
		return 1
	}
	return 0
}

// follows reports whether p stands n ports after first on both sides.
func follows(first, p api.PortSpec, n int) bool {
	return p.HostIP == first.HostIP && p.Protocol == first.Protocol &&
		int(p.HostPort) == int(first.HostPort)+n && int(p.ContainerPort) == int(first.ContainerPort)+n
}

func span(port uint16, n int) string {
	if n == 1 {
		return strconv.Itoa(int(port))
	}
	return fmt.Sprintf("%d-%d", port, int(port)+n-1)
}

// hostIP is the address that a port is published on; the empty one means all.
func hostIP(p api.PortSpec) string {
	if p.HostIP == "" {
		return "0.0.0.0"
	}
	return p.HostIP
}
