package netlink

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Attributes of ctnetlink (linux/netfilter/nfnetlink_conntrack.h) that x/sys/unix does not name.
const (
	ctMsgDelete   = 2 // IPCTNL_MSG_CT_DELETE
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaFilter     = 25
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv6Src    = 3
	ctaProtoNum   = 1
	ctaProtoSrc   = 2
	ctaProtoDst   = 3

	ctaFilterOrig  = 1 // CTA_FILTER_ORIG_FLAGS
	ctaFilterReply = 2 // CTA_FILTER_REPLY_FLAGS

	filterIPSrc    = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterProtoNum = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM
	filterProtoSrc = 1 << 4
	filterProtoDst = 1 << 5
)

// ForgetUDP makes the kernel forget the UDP flows that were first sent to port, so that their next packet is looked up anew in the
// NAT tables. The kernel walks its own table (Linux 5.8; older kernels refuse, and forget nothing).
func (r *Request) ForgetUDP(family uint8, port uint16) {
	r.forget(family, ctaTupleOrig, ctaFilterOrig, filterProtoNum|filterProtoDst, func() {
		r.Nest(ctaTupleProto, func() {
			r.Uint8(ctaProtoNum, unix.IPPROTO_UDP)
			r.Net16(ctaProtoDst, port)
		})
	})
}

// ForgetUDPServer makes the kernel forget the UDP flows that server answers.
func (r *Request) ForgetUDPServer(server netip.AddrPort) {
	addr := uint16(ctaIPv4Src)
	if server.Addr().Is6() {
		addr = ctaIPv6Src
	}
	r.forget(family(server.Addr()), ctaTupleReply, ctaFilterReply, filterIPSrc|filterProtoNum|filterProtoSrc, func() {
		r.Nest(ctaTupleIP, func() { r.Bytes(addr, server.Addr().AsSlice()) })
		r.Nest(ctaTupleProto, func() {
			r.Uint8(ctaProtoNum, unix.IPPROTO_UDP)
			r.Net16(ctaProtoSrc, server.Port())
		})
	})
}

func (r *Request) forget(family uint8, tuple, filter uint16, flags uint32, body func()) {
	r.Start("forget UDP flows", unix.NFNL_SUBSYS_CTNETLINK<<8|ctMsgDelete, unix.NLM_F_ACK, nfgen(family, 0))
	r.Nest(tuple, body)
	r.Nest(ctaFilter, func() { r.Uint32(filter, flags) })
}
