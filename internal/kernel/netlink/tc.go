package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Numbers of linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h.
const (
	clsact        = 0xfffffff1 // TC_H_CLSACT
	clsactIngress = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	tcaKind       = 1          // TCA_KIND, TCA_ACT_KIND
	tcaOptions    = 2          // TCA_OPTIONS, TCA_ACT_OPTIONS
	u32Sel        = 5          // TCA_U32_SEL
	u32Act        = 7          // TCA_U32_ACT
	u32Terminal   = 1          // TC_U32_TERMINAL
	mirredParms   = 2          // TCA_MIRRED_PARMS
	egressRedir   = 1          // TCA_EGRESS_REDIR
	actStolen     = 4          // TC_ACT_STOLEN
)

func tcmsg(index, handle, parent, info uint32) []byte {
	b := make([]byte, 20)
	for i, v := range [...]uint32{index, handle, parent, info} {
		binary.NativeEndian.PutUint32(b[4+4*i:], v)
	}
	return b
}

// Redirect sends all that comes in on one interface out of another, before the kernel's own protocols see it.
func (r *Request) Redirect(from, to uint32) {
	const flags = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL
	r.Start("queueing discipline clsact", unix.RTM_NEWQDISC, flags, tcmsg(from, clsact&0xffff0000, clsact, 0))
	r.String(tcaKind, "clsact")
	all := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)
	r.Start("filter that redirects", unix.RTM_NEWTFILTER, flags, tcmsg(from, 0, clsactIngress, 1<<16|uint32(binary.NativeEndian.Uint16(all))))
	r.String(tcaKind, "u32")
	r.Nest(tcaOptions, func() {
		sel := make([]byte, 32) // struct tc_u32_sel with one key, whose mask is empty
		sel[0], sel[2] = u32Terminal, 1
		r.Bytes(u32Sel, sel)
		r.Nest(u32Act, func() {
			r.Nest(1, func() {
				r.String(tcaKind, "mirred")
				r.Nest(tcaOptions, func() {
					parms := make([]byte, 28) // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
					binary.NativeEndian.PutUint32(parms[8:], actStolen)
					binary.NativeEndian.PutUint32(parms[20:], egressRedir)
					binary.NativeEndian.PutUint32(parms[24:], to)
					r.Bytes(mirredParms, parms)
				})
			})
		})
	})
}
