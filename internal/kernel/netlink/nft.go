package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Table is an nftables table.
type Table struct {
	Family uint8 // unix.NFPROTO_INET, …
	Name   string
}

// Chain is a chain of a table; one with a Type hangs on a hook of the kernel, and its Priority orders it among the others there.
type Chain struct {
	Name     string
	Type     string // filter or nat; empty for a chain that is jumped to
	Hook     uint32 // unix.NF_INET_…
	Priority int32
}

// Set is a set, or a map if it has Data. Key and Data list the types of a concatenation.
type Set struct {
	Name      string
	Key, Data []DataType
}

// DataType is nftables' number of a type of data, which tells nft(8) how to print it.
type DataType uint32

// The types of data that Brig's sets use, as numbered by nft(8) (include/datatype.h).
const (
	TypeIPv4    DataType = 7
	TypeIPv6    DataType = 8
	TypeProto   DataType = 12
	TypeService DataType = 13
	TypeIfname  DataType = 41
)

// size in a concatenation: each field fills whole 32-bit registers.
func size(types []DataType) (n uint32) {
	for _, t := range types {
		if t == TypeIPv6 || t == TypeIfname {
			n += 12
		}
		n += 4
	}
	return n
}

// number of a concatenation: six bits a field.
func number(types []DataType) (n uint32) {
	for _, t := range types {
		n = n<<6 | uint32(t)
	}
	return n
}

// Element is a member of a set, or a pair of a map. Both are padded as size says.
type Element struct{ Key, Data []byte }

func nfgen(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// nft starts a message of the nf_tables subsystem about the table.
func (r *Request) nft(t Table, what string, typ, flags uint16) {
	r.Start(what, unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, nfgen(t.Family, 0))
}

// Batch makes the messages that body adds one transaction: all or nothing. Its last message should ask for an acknowledgement, the
// others need not: a refusal comes in any case.
func (r *Request) Batch(body func()) { r.BatchAt(0, body) }

// BatchAt is Batch for who has looked at what is there: the transaction is refused with ERESTART where nftables have changed since the generation that
// [Conn.Generation] told. 0 is any generation.
func (r *Request) BatchAt(generation uint32, body func()) {
	r.Start("nftables transaction", unix.NFNL_MSG_BATCH_BEGIN, 0, nfgen(0, unix.NFNL_SUBSYS_NFTABLES))
	if generation != 0 {
		r.Net32(unix.NFNL_BATCH_GENID, generation)
	}
	body()
	if last := &r.messages[len(r.messages)-1]; !last.ack {
		last.ack = true
		flags := r.buf[last.at+6:]
		binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	}
	r.Start("nftables transaction", unix.NFNL_MSG_BATCH_END, 0, nfgen(0, unix.NFNL_SUBSYS_NFTABLES))
}

// AddTable makes a table; one that exists is left alone.
func (r *Request) AddTable(t Table) {
	r.nft(t, "create table "+t.Name, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	r.String(unix.NFTA_TABLE_NAME, t.Name)
}

// DelTable removes a table with all that is in it; ENOENT if there is none.
func (r *Request) DelTable(t Table) {
	r.nft(t, "remove table "+t.Name, unix.NFT_MSG_DELTABLE, 0)
	r.String(unix.NFTA_TABLE_NAME, t.Name)
}

// AddChain makes a chain.
func (r *Request) AddChain(t Table, c Chain) {
	r.nft(t, "create chain "+c.Name, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	r.String(unix.NFTA_CHAIN_TABLE, t.Name)
	r.String(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Type == "" {
		return
	}
	r.String(unix.NFTA_CHAIN_TYPE, c.Type)
	r.Nest(unix.NFTA_CHAIN_HOOK, func() {
		r.Net32(unix.NFTA_HOOK_HOOKNUM, c.Hook)
		r.Net32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
	})
}

// AddSet makes a set or a map. The id tells sets of one transaction apart.
func (r *Request) AddSet(t Table, s Set, id uint32) {
	r.nft(t, "create set "+s.Name, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE)
	r.String(unix.NFTA_SET_TABLE, t.Name)
	r.String(unix.NFTA_SET_NAME, s.Name)
	r.Net32(unix.NFTA_SET_ID, id)
	r.Net32(unix.NFTA_SET_KEY_TYPE, number(s.Key))
	r.Net32(unix.NFTA_SET_KEY_LEN, size(s.Key))
	if s.Data != nil {
		r.Net32(unix.NFTA_SET_FLAGS, unix.NFT_SET_MAP)
		r.Net32(unix.NFTA_SET_DATA_TYPE, number(s.Data))
		r.Net32(unix.NFTA_SET_DATA_LEN, size(s.Data))
	}
}

// AddElement adds to a set; EEXIST if its key is there.
func (r *Request) AddElement(t Table, set string, e Element) {
	r.element(t, "add to set "+set, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, set, e)
}

// DelElement takes out the element with e's key; ENOENT if there is none.
func (r *Request) DelElement(t Table, set string, e Element) {
	r.element(t, "remove from set "+set, unix.NFT_MSG_DELSETELEM, 0, set, Element{Key: e.Key})
}

func (r *Request) element(t Table, what string, typ, flags uint16, set string, e Element) {
	r.nft(t, what, typ, flags)
	r.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
	r.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	r.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
		r.Nest(1, func() { // NFTA_LIST_ELEM
			r.Nest(unix.NFTA_SET_ELEM_KEY, func() { r.Bytes(unix.NFTA_DATA_VALUE, e.Key) })
			if e.Data != nil {
				r.Nest(unix.NFTA_SET_ELEM_DATA, func() { r.Bytes(unix.NFTA_DATA_VALUE, e.Data) })
			}
		})
	})
}

// Generation is a number that each change of nftables in this network namespace changes, whoever makes it. It is never 0.
func (c *Conn) Generation() (uint32, error) {
	var r Request
	r.nft(Table{}, "generation of nftables", unix.NFT_MSG_GETGEN, unix.NLM_F_ACK)
	var generation uint32
	err := c.Do(&r, func(_ uint16, b []byte) {
		if len(b) < 4 {
			return
		}
		Attributes(b[4:], func(attr uint16, v []byte) {
			if attr == unix.NFTA_GEN_ID && len(v) == 4 {
				generation = binary.BigEndian.Uint32(v)
			}
		})
	})
	return generation, err
}

// HasTable reports whether the table exists.
func (c *Conn) HasTable(t Table) (bool, error) {
	var r Request
	r.nft(t, "table "+t.Name, unix.NFT_MSG_GETTABLE, unix.NLM_F_ACK)
	r.String(unix.NFTA_TABLE_NAME, t.Name)
	return exists(c.Do(&r, nil))
}

// HasChain reports whether the table has the chain.
func (c *Conn) HasChain(t Table, chain string) (bool, error) {
	var r Request
	r.nft(t, "chain "+chain, unix.NFT_MSG_GETCHAIN, unix.NLM_F_ACK)
	r.String(unix.NFTA_CHAIN_TABLE, t.Name)
	r.String(unix.NFTA_CHAIN_NAME, chain)
	return exists(c.Do(&r, nil))
}

// Element finds what a map has for a key; ENOENT if nothing, or no such map.
func (c *Conn) Element(t Table, set string, key []byte) (Element, error) {
	var r Request
	r.element(t, "look up in set "+set, unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, set, Element{Key: key})
	e := Element{Key: key}
	err := c.Do(&r, func(_ uint16, b []byte) {
		if len(b) < 4 {
			return
		}
		path := [...]uint16{unix.NFTA_SET_ELEM_LIST_ELEMENTS, 1, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE}
		e.Data = append([]byte(nil), descend(b[4:], path[:])...)
	})
	return e, err
}

// descend follows nested attributes down to a value.
func descend(b []byte, path []uint16) []byte {
	for _, want := range path {
		var next []byte
		Attributes(b, func(attr uint16, v []byte) {
			if attr == want {
				next = v
			}
		})
		b = next
	}
	return b
}

func exists(err error) (bool, error) {
	if e, ok := err.(*Error); ok && e.Errno == unix.ENOENT {
		return false, nil
	}
	return err == nil, err
}
