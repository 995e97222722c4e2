package netlink

import "golang.org/x/sys/unix"

// Sublink is an interface to be made that shares another one's wire, down in another network namespace.
type Sublink struct {
	Kind   string // macvlan or ipvlan
	Mode   uint32 // of the kind: MacvlanMode…, IPvlanMode…
	Parent uint32 // index
	MTU    uint32 // 0: the parent's
	Name   string
	Index  uint32 // wanted; 0: any
	NS     int    // descriptor of its network namespace
	MAC    MAC    // of a macvlan; zero: a random one
}

// The modes, of linux/if_link.h.
const (
	MacvlanPrivate  = 1
	MacvlanVEPA     = 2
	MacvlanBridge   = 4
	MacvlanPassthru = 8

	IPvlanL2  = 0
	IPvlanL3  = 1
	IPvlanL3S = 2
)

// AddSublink makes one. EBUSY if the parent has one of another kind, EINVAL if it cannot have any, EOPNOTSUPP if the kernel does not know the kind.
func (r *Request) AddSublink(s Sublink) {
	r.Start("create "+s.Kind+" "+s.Name, unix.RTM_NEWLINK, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(s.Index, 0, 0))
	r.String(unix.IFLA_IFNAME, s.Name)
	r.Uint32(unix.IFLA_LINK, s.Parent)
	r.Uint32(unix.IFLA_NET_NS_FD, uint32(s.NS))
	if s.MTU != 0 {
		r.Uint32(unix.IFLA_MTU, s.MTU)
	}
	if s.MAC != (MAC{}) {
		r.Bytes(unix.IFLA_ADDRESS, s.MAC[:])
	}
	r.Nest(unix.IFLA_LINKINFO, func() {
		r.String(unix.IFLA_INFO_KIND, s.Kind)
		r.Nest(unix.IFLA_INFO_DATA, func() {
			if s.Kind == "macvlan" {
				r.Uint32(unix.IFLA_MACVLAN_MODE, s.Mode)
				return
			}
			r.Uint16(unix.IFLA_IPVLAN_MODE, uint16(s.Mode))
		})
	})
}
