package network

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/netlink"
)

// The options of drivers, docker's names.
const (
	optionBridgeName = "com.docker.network.bridge.name"
	optionICC        = "com.docker.network.bridge.enable_icc"
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optionBinding    = "com.docker.network.bridge.host_binding_ipv4"
	optionMTU        = "com.docker.network.driver.mtu"
	optionShortMTU   = "mtu" // podman's, as the next two
	optionIsolate    = "isolate"
	optionMode       = "mode"
	optionParent     = "parent"
)

// checkOptions refuses options that the driver does not have, and values that make no sense.
func checkOptions(n *api.Network) error {
	known := []string{optionMTU, optionShortMTU}
	switch n.Driver {
	case api.DriverBridge:
		known = append(known, optionBridgeName, optionICC, optionMasquerade, optionBinding, optionIsolate)
	case api.DriverMacvlan, api.DriverIPvlan:
		known = append(known, optionParent, optionMode, n.Driver+"_mode")
	case modeHost, "null", modeNone:
		return api.Errorf(api.Denied, "only one instance of %q network is allowed", n.Driver)
	default:
		return api.Errorf(api.Unsupported, "network driver %q is not supported: the drivers are bridge, macvlan and ipvlan", n.Driver)
	}
	for _, k := range slices.Sorted(maps.Keys(n.Options)) {
		v := n.Options[k]
		if !slices.Contains(known, k) {
			return api.Errorf(api.Unsupported, "network option %q is not supported by the driver %s: it knows %s", k, n.Driver, strings.Join(known, ", "))
		}
		if err := checkOption(n, k, v); err != nil {
			return err
		}
	}
	if n.Driver != api.DriverBridge && n.Options[optionParent] == "" {
		return api.Errorf(api.InvalidArgument, "the driver %s needs an interface of the host: name it with -o parent=NAME", n.Driver)
	}
	return nil
}

func checkOption(n *api.Network, k, v string) error {
	bad := func(want string) error {
		return api.Errorf(api.InvalidArgument, "network option %s=%s: %s", k, v, want)
	}
	switch k {
	case optionBridgeName, optionParent:
		if v == "" || len(v) >= unix.IFNAMSIZ || strings.ContainsAny(v, "/ \t\n%:") || v == "." || v == ".." {
			return bad("the name of an interface is wanted, of up to 15 characters")
		}
	case optionMTU, optionShortMTU:
		if mtu, err := strconv.ParseUint(v, 10, 32); err != nil || mtu < 68 || mtu > 65535 {
			return bad("a number of bytes from 68 to 65535 is wanted")
		}
	case optionICC, optionMasquerade:
		if _, err := strconv.ParseBool(v); err != nil {
			return bad("true or false is wanted")
		}
	case optionBinding:
		if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
			return bad("an IPv4 address is wanted")
		}
	case optionIsolate:
		if v != "strict" {
			if on, err := strconv.ParseBool(v); err != nil || !on {
				return api.Errorf(api.Unsupported, "network option %s=%s is not supported: networks are always isolated from one another; connect a container to both", k, v)
			}
		}
	default:
		if _, ok := vlanMode(n.Driver, v); !ok {
			return bad("the modes of the driver are " + strings.Join(vlanModes(n.Driver), ", "))
		}
	}
	return nil
}

// mtuOf is the MTU that was asked for, 0: none was.
func mtuOf(n *api.Network) uint32 {
	for _, k := range []string{optionMTU, optionShortMTU} {
		if mtu, err := strconv.ParseUint(n.Options[k], 10, 32); err == nil {
			return uint32(mtu)
		}
	}
	return 0
}

// off reports whether an option was set to false.
func off(n *api.Network, k string) bool {
	on, err := strconv.ParseBool(n.Options[k])
	return err == nil && !on
}

// flagsOf is what the table must know of a network.
func flagsOf(n *api.Network) string {
	flags := "-"
	if n.Internal {
		flags += flagInternal
	}
	if off(n, optionICC) {
		flags += flagApart
	}
	if off(n, optionMasquerade) {
		flags += flagNoMasquerade
	}
	return flags
}

func vlanModes(driver string) []string {
	if driver == api.DriverMacvlan {
		return []string{"bridge", "private", "vepa", "passthru"}
	}
	return []string{"l2", "l3", "l3s"}
}

// vlanMode is the kernel's number of a mode; the empty one is docker's default.
func vlanMode(driver, mode string) (uint32, bool) {
	if driver == api.DriverMacvlan {
		switch mode {
		case "", "bridge":
			return netlink.MacvlanBridge, true
		case "private":
			return netlink.MacvlanPrivate, true
		case "vepa":
			return netlink.MacvlanVEPA, true
		case "passthru":
			return netlink.MacvlanPassthru, true
		}
		return 0, false
	}
	switch mode {
	case "", "l2":
		return netlink.IPvlanL2, true
	case "l3":
		return netlink.IPvlanL3, true
	case "l3s":
		return netlink.IPvlanL3S, true
	}
	return 0, false
}

// modeOf is the mode of a network of these drivers.
func modeOf(n *api.Network) string {
	if mode := n.Options[n.Driver+"_mode"]; mode != "" {
		return mode
	}
	return n.Options[optionMode]
}
