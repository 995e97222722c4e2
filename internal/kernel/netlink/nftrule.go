package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Rule is a rule of a chain.
type Rule struct {
	Chain   string
	Comment string
	Before  uint64 // handle of the rule that it goes before; 0: at the end of the chain
	Exprs   []Expr
}

// Expr is an expression of a rule: it adds its name and its data to a request.
type Expr func(*Request)

// Reg is one of the sixteen 32-bit registers of a rule. Longer values fill several in a row.
type Reg uint32

func (r Reg) number() uint32 { return unix.NFT_REG32_00 + uint32(r) }

// AddRule adds a rule.
func (r *Request) AddRule(t Table, rule Rule) {
	flags := uint16(unix.NLM_F_CREATE)
	if rule.Before == 0 {
		flags |= unix.NLM_F_APPEND
	}
	r.nft(t, "add rule to chain "+rule.Chain, unix.NFT_MSG_NEWRULE, flags)
	r.String(unix.NFTA_RULE_TABLE, t.Name)
	r.String(unix.NFTA_RULE_CHAIN, rule.Chain)
	if rule.Before != 0 {
		r.Bytes(unix.NFTA_RULE_POSITION, binary.BigEndian.AppendUint64(nil, rule.Before))
	}
	r.Nest(unix.NFTA_RULE_EXPRESSIONS, func() {
		for _, e := range rule.Exprs {
			r.Nest(1, func() { e(r) }) // NFTA_LIST_ELEM
		}
	})
	if rule.Comment != "" { // as nft(8) and iptables keep it: type 0, length, text with its zero
		r.Bytes(unix.NFTA_RULE_USERDATA, append(append([]byte{0, uint8(len(rule.Comment) + 1)}, rule.Comment...), 0))
	}
}

// DelRule removes a rule by its handle.
func (r *Request) DelRule(t Table, chain string, handle uint64) {
	r.nft(t, "remove rule of chain "+chain, unix.NFT_MSG_DELRULE, 0)
	r.String(unix.NFTA_RULE_TABLE, t.Name)
	r.String(unix.NFTA_RULE_CHAIN, chain)
	r.Bytes(unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, handle))
}

func expr(name string, data func(*Request)) Expr {
	return func(r *Request) {
		r.String(unix.NFTA_EXPR_NAME, name)
		r.Nest(unix.NFTA_EXPR_DATA, func() { data(r) })
	}
}

// Meta loads a property of the packet (unix.NFT_META_…).
func Meta(key uint32, to Reg) Expr {
	return expr("meta", func(r *Request) {
		r.Net32(unix.NFTA_META_KEY, key)
		r.Net32(unix.NFTA_META_DREG, to.number())
	})
}

// CtStatus loads the status bits of the packet's connection (IPS_…).
func CtStatus(to Reg) Expr { return ct(unix.NFT_CT_STATUS, to) }

// CtState loads the state of the packet's connection, a bit of [CtEstablished] and others.
func CtState(to Reg) Expr { return ct(unix.NFT_CT_STATE, to) }

// Bits of a connection's state and status (linux/netfilter/nf_tables.h, nf_conntrack_common.h).
const (
	CtEstablished = 1 << 1
	CtRelated     = 1 << 2
	CtDstNAT      = 1 << 5
)

func ct(key uint32, to Reg) Expr {
	return expr("ct", func(r *Request) {
		r.Net32(unix.NFTA_CT_KEY, key)
		r.Net32(unix.NFTA_CT_DREG, to.number())
	})
}

// Payload loads n bytes of the packet, counted from a header (unix.NFT_PAYLOAD_…).
func Payload(base, offset, n uint32, to Reg) Expr {
	return expr("payload", func(r *Request) {
		r.Net32(unix.NFTA_PAYLOAD_DREG, to.number())
		r.Net32(unix.NFTA_PAYLOAD_BASE, base)
		r.Net32(unix.NFTA_PAYLOAD_OFFSET, offset)
		r.Net32(unix.NFTA_PAYLOAD_LEN, n)
	})
}

// SetPort writes a port that a register holds into the header of TCP or UDP, at the offset of its source or its destination; checksum is the offset of the
// checksum there, which is mended.
func SetPort(from Reg, offset, checksum uint32) Expr {
	return expr("payload", func(r *Request) {
		r.Net32(unix.NFTA_PAYLOAD_SREG, from.number())
		r.Net32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER)
		r.Net32(unix.NFTA_PAYLOAD_OFFSET, offset)
		r.Net32(unix.NFTA_PAYLOAD_LEN, 2)
		r.Net32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET)
		r.Net32(unix.NFTA_PAYLOAD_CSUM_OFFSET, checksum)
	})
}

// Load puts data into a register.
func Load(to Reg, data []byte) Expr {
	return expr("immediate", func(r *Request) {
		r.Net32(unix.NFTA_IMMEDIATE_DREG, to.number())
		r.Nest(unix.NFTA_IMMEDIATE_DATA, func() { r.Bytes(unix.NFTA_DATA_VALUE, data) })
	})
}

// NoTracking keeps the packet out of connection tracking; it is for chains of a priority below -200.
func NoTracking() Expr { return expr("notrack", func(*Request) {}) }

// LocalDestination loads the type of the destination address, unix.RTN_LOCAL for the host's own.
func LocalDestination(to Reg) Expr {
	return expr("fib", func(r *Request) {
		r.Net32(unix.NFTA_FIB_DREG, to.number())
		r.Net32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		r.Net32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
	})
}

// Equal ends the rule unless the register holds data.
func Equal(reg Reg, data []byte) Expr { return cmp(unix.NFT_CMP_EQ, reg, data) }

// Differs ends the rule if the register holds data.
func Differs(reg Reg, data []byte) Expr { return cmp(unix.NFT_CMP_NEQ, reg, data) }

func cmp(op uint32, reg Reg, data []byte) Expr {
	return expr("cmp", func(r *Request) {
		r.Net32(unix.NFTA_CMP_SREG, reg.number())
		r.Net32(unix.NFTA_CMP_OP, op)
		r.Nest(unix.NFTA_CMP_DATA, func() { r.Bytes(unix.NFTA_DATA_VALUE, data) })
	})
}

// Mask keeps the bits of a register that mask has.
func Mask(reg Reg, mask []byte) Expr {
	return expr("bitwise", func(r *Request) {
		r.Net32(unix.NFTA_BITWISE_SREG, reg.number())
		r.Net32(unix.NFTA_BITWISE_DREG, reg.number())
		r.Net32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		r.Nest(unix.NFTA_BITWISE_MASK, func() { r.Bytes(unix.NFTA_DATA_VALUE, mask) })
		r.Nest(unix.NFTA_BITWISE_XOR, func() { r.Bytes(unix.NFTA_DATA_VALUE, make([]byte, len(mask))) })
	})
}

// InSet ends the rule unless the set has the value that starts at reg.
func InSet(set string, reg Reg) Expr {
	return expr("lookup", func(r *Request) {
		r.String(unix.NFTA_LOOKUP_SET, set)
		r.Net32(unix.NFTA_LOOKUP_SREG, reg.number())
	})
}

// InMap is InSet for a map, and loads what it has for the value.
func InMap(set string, reg, to Reg) Expr {
	return expr("lookup", func(r *Request) {
		r.String(unix.NFTA_LOOKUP_SET, set)
		r.Net32(unix.NFTA_LOOKUP_SREG, reg.number())
		r.Net32(unix.NFTA_LOOKUP_DREG, to.number())
	})
}

// DestinationNAT changes the destination to the address and the port in two registers.
func DestinationNAT(family uint8, addr, port Reg) Expr {
	return expr("nat", func(r *Request) {
		r.Net32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		r.Net32(unix.NFTA_NAT_FAMILY, uint32(family))
		r.Net32(unix.NFTA_NAT_REG_ADDR_MIN, addr.number())
		r.Net32(unix.NFTA_NAT_REG_PROTO_MIN, port.number())
	})
}

// Masquerade changes the source to the address of the outgoing interface.
func Masquerade() Expr { return expr("masq", func(*Request) {}) }

// Counter counts packets and bytes; iptables expects one in each of its rules.
func Counter() Expr { return expr("counter", func(*Request) {}) }

// The verdicts (linux/netfilter.h, linux/netfilter/nf_tables.h).
const (
	Drop   = 0
	Accept = 1
	Jump   = unix.NFT_JUMP
	Return = unix.NFT_RETURN
)

// Verdict ends the rule with one of them; chain is for Jump.
func Verdict(code int32, chain string) Expr {
	return expr("immediate", func(r *Request) {
		r.Net32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		r.Nest(unix.NFTA_IMMEDIATE_DATA, func() {
			r.Nest(unix.NFTA_DATA_VERDICT, func() {
				r.Net32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					r.String(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	})
}

// RuleInfo is what can be told of a rule that someone made.
type RuleInfo struct {
	Handle  uint64
	Comment string
	Returns bool // it only returns from its chain, perhaps counting
}

// Rules lists a chain's rules in order.
func (c *Conn) Rules(t Table, chain string) ([]RuleInfo, error) {
	var r Request
	r.nft(t, "rules of chain "+chain, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	r.String(unix.NFTA_RULE_TABLE, t.Name)
	r.String(unix.NFTA_RULE_CHAIN, chain)
	var rules []RuleInfo
	err := c.Do(&r, func(_ uint16, b []byte) {
		if len(b) < 4 {
			return
		}
		var info RuleInfo
		inChain := false
		Attributes(b[4:], func(attr uint16, v []byte) {
			switch {
			case attr == unix.NFTA_RULE_CHAIN:
				inChain = Text(v) == chain // old kernels list all chains
			case attr == unix.NFTA_RULE_HANDLE && len(v) == 8:
				info.Handle = binary.BigEndian.Uint64(v)
			case attr == unix.NFTA_RULE_USERDATA && len(v) > 2 && v[0] == 0 && int(v[1]) <= len(v)-2:
				info.Comment = Text(v[2 : 2+v[1]])
			case attr == unix.NFTA_RULE_EXPRESSIONS:
				info.Returns = onlyReturns(v)
			}
		})
		if inChain {
			rules = append(rules, info)
		}
	})
	return rules, err
}

func onlyReturns(exprs []byte) bool {
	returns, other := false, false
	Attributes(exprs, func(_ uint16, e []byte) {
		switch Text(descend(e, []uint16{unix.NFTA_EXPR_NAME})) {
		case "counter":
		case "immediate":
			code := descend(e, []uint16{unix.NFTA_EXPR_DATA, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CODE})
			returns = len(code) == 4 && int32(binary.BigEndian.Uint32(code)) == Return
		default:
			other = true
		}
	})
	return returns && !other
}
