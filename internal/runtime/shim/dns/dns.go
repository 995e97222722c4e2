// Package dns answers what a container asks about names on its networks, and tells what is for others to answer. It reads messages and writes messages, and does
// nothing else, so that it can be fuzzed by itself: whatever a container sends, the keeper of the container must go on.
//
// What it says of a name that is there is whole: a name with IPv4 addresses only has no AAAA record, and no mail server, and that is an answer without records, not NXDOMAIN.
// A name that is nobody's is forwarded. Records may be kept for no time at all (TTL 0), since a container that is started again has other addresses.
//
// The messages are those of RFC 1035, section 4. They are read and written here, and by golang.org/x/net/dns/dnsmessage in the tests: its names of codes and its
// errors are made before main, which would cost every start of the two programs that link this 76 µs.
package dns

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// Names is who has which name and address.
type Names interface {
	// Find returns the addresses of a name, and whether anybody has it. They are read before it is called again.
	Find(name []byte) (addrs []netip.Addr, there bool)
	// Whose returns the name of who has an address.
	Whose(addr netip.Addr) (name string, there bool)
}

// Sizes of messages, in bytes.
const (
	headerLen = 12
	maxUDP    = 512  // to who does not say that it takes more: RFC 1035, section 2.3.4
	mostUDP   = 4096 // to who does: what fits in few packets
	// MaxTCP is the longest message of all.
	MaxTCP = 65535
)

// Numbers of RFC 1035, section 3.2, RFC 3596 and RFC 6891.
const (
	typeA    = 1
	typePTR  = 12
	typeAAAA = 28
	typeOPT  = 41
	typeAny  = 255
	internet = 1 // the class
)

// Code is what an answer says of how it went: RFC 1035, section 4.1.1.
type Code byte

// The codes.
const (
	Success        Code = 0
	FormatError    Code = 1
	ServerFailure  Code = 2
	NotImplemented Code = 4
	Refused        Code = 5
)

// Fate is what becomes of a message.
type Fate int

// The fates.
const (
	Drop    Fate = iota // it is no query
	Reply               // the answer is there
	Forward             // somebody else is to answer
)

// Server answers queries, one at a time. It allocates nothing for the name of a container: what a keeper's heap takes every container pays for.
type Server struct {
	Names Names
	name  [256]byte // that is asked for, as text
}

// Answer looks at a query. The answer is built in buf, which is made larger where it has to be. tcp: it came over TCP, where there is room for all.
func (s *Server) Answer(query, buf []byte, tcp bool) (Fate, []byte) {
	if len(query) < headerLen || query[2]&0x80 != 0 { // too short, or itself an answer
		return Drop, nil
	}
	if query[2]&0x78 != 0 { // anything but a plain query
		return Reply, Refuse(query[:headerLen], buf, NotImplemented)
	}
	end := Question(query)
	if end == 0 { // no question, or several, of which nobody knows what they mean
		return Reply, Refuse(query[:headerLen], buf, FormatError)
	}
	typ, class := binary.BigEndian.Uint16(query[end-4:]), binary.BigEndian.Uint16(query[end-2:])
	name, ok := text(s.name[:0], query[headerLen:end-4])
	if class != internet || !ok {
		return Forward, nil
	}
	a := answer{question: query[:end], typ: typ, limit: limit(query, end, tcp)}
	if addr, ok := reverse(name); ok {
		host, there := s.Names.Whose(addr)
		if !there {
			return Forward, nil
		}
		if typ == typePTR || typ == typeAny {
			a.host = host
		}
		return Reply, a.build(buf)
	}
	there := false
	if a.addrs, there = s.Names.Find(name); !there {
		return Forward, nil
	}
	return Reply, a.build(buf)
}

// Question is where the only question of a message ends, 0: it has none, or more, or one that cannot be read. Names in it are not compressed: there is
// nothing yet to refer to.
func Question(msg []byte) int {
	if len(msg) < headerLen || msg[4] != 0 || msg[5] != 1 {
		return 0
	}
	for at := headerLen; at < len(msg); {
		n := int(msg[at])
		if n == 0 {
			if at+5 > len(msg) || at-headerLen > 254 {
				return 0
			}
			return at + 5
		}
		if n > 63 {
			return 0
		}
		at += n + 1
	}
	return 0
}

// text appends a name as people write it, without the last dot. One with a dot in a label has no such form.
func text(b, labels []byte) ([]byte, bool) {
	for at := 0; labels[at] != 0; at += 1 + int(labels[at]) {
		label := labels[at+1 : at+1+int(labels[at])]
		for _, c := range label {
			if c == '.' {
				return nil, false
			}
		}
		if at > 0 {
			b = append(b, '.')
		}
		b = append(b, label...)
	}
	return b, true
}

// limit is how long the answer may be. Who takes more over UDP than everybody says so in a pseudo record (RFC 6891, section 6.2.3), the only kind of record that queries have.
func limit(query []byte, end int, tcp bool) int {
	const fixed = 10 // type, class, TTL, length of the data
	if tcp {
		return MaxTCP
	}
	rest := query[end:]
	if len(rest) < 1+fixed || rest[0] != 0 || binary.BigEndian.Uint16(rest[1:]) != typeOPT {
		return maxUDP
	}
	return min(max(int(binary.BigEndian.Uint16(rest[3:])), maxUDP), mostUDP)
}

// answer is what is known of a name.
type answer struct {
	question []byte // with the header before it
	typ      uint16
	limit    int
	addrs    []netip.Addr // of either family
	host     string       // of an address
}

// build writes the answer. What does not fit is left out, and said to be.
func (a *answer) build(buf []byte) []byte {
	msg := Refuse(a.question, buf, Success)
	count := uint16(0)
	record := func(typ uint16, data []byte) bool {
		if len(msg)+12+len(data) > a.limit {
			msg[2] |= cut
			return false
		}
		msg = append(msg, 0xc0, headerLen) // the name is that of the question: RFC 1035, section 4.1.4
		msg = binary.BigEndian.AppendUint16(msg, typ)
		msg = append(msg, 0, internet, 0, 0, 0, 0) // and may be kept for no time
		msg = append(binary.BigEndian.AppendUint16(msg, uint16(len(data))), data...)
		count++
		return true
	}
	for _, addr := range a.addrs {
		typ, data := uint16(typeAAAA), addr.As16()
		from := 0
		if addr.Is4() {
			typ, from = typeA, 12
		}
		if (a.typ == typ || a.typ == typeAny) && !record(typ, data[from:]) {
			break
		}
	}
	if host, ok := labels(a.host); ok {
		record(typePTR, host)
	}
	binary.BigEndian.PutUint16(msg[6:], count)
	return msg
}

// labels is a name as messages have it. The empty name is none.
func labels(name string) ([]byte, bool) {
	if name == "" || len(name) > 253 {
		return nil, false
	}
	var b []byte
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return nil, false
		}
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0), true
}

// cut is the bit of the third byte that says that a message is not whole.
const cut = 0x02

// Truncated is the answer that has whoever asked ask again over TCP.
func Truncated(query, buf []byte) []byte {
	msg := Refuse(query, buf, Success)
	msg[2] |= cut
	return msg
}

// Refuse is the answer that says nothing but why there is none: the header of the query, with its question where it has one that can be read.
func Refuse(query, buf []byte, code Code) []byte {
	if len(query) < headerLen {
		return nil
	}
	end := Question(query)
	msg := append(buf[:0], query[:max(end, headerLen)]...)
	msg[2] = query[2]&0x79 | 0x80 // an answer, of the same kind, with recursion as desired
	msg[3] = 0x80 | byte(code&15) // which is available
	clear(msg[4:headerLen])
	if end > 0 {
		msg[5] = 1
	}
	return msg
}

// reverse reads the name under which DNS keeps whose an address is: RFC 1035, section 3.5, and RFC 3596, section 2.5.
func reverse(name []byte) (netip.Addr, bool) {
	const four, six = ".in-addr.arpa", ".ip6.arpa"
	switch {
	case hasSuffixFold(name, four):
		parts := strings.Split(string(name[:len(name)-len(four)]), ".")
		var a [4]byte
		if len(parts) != len(a) {
			return netip.Addr{}, false
		}
		for i, p := range parts {
			n, err := strconv.ParseUint(p, 10, 8)
			if err != nil {
				return netip.Addr{}, false
			}
			a[3-i] = byte(n)
		}
		return netip.AddrFrom4(a), true
	case hasSuffixFold(name, six):
		digits := name[:len(name)-len(six)]
		var a [16]byte
		if len(digits) != 63 {
			return netip.Addr{}, false
		}
		for i := range 32 {
			n, err := strconv.ParseUint(string(digits[2*i:2*i+1]), 16, 4)
			if err != nil || i < 31 && digits[2*i+1] != '.' {
				return netip.Addr{}, false
			}
			a[15-i/2] |= byte(n) << (4 * (i % 2))
		}
		return netip.AddrFrom16(a), true
	}
	return netip.Addr{}, false
}

func hasSuffixFold(s []byte, suffix string) bool {
	at := len(s) - len(suffix)
	if at <= 0 {
		return false
	}
	for i := range len(suffix) {
		if lower(s[at+i]) != suffix[i] {
			return false
		}
	}
	return true
}

// Same reports whether a message answers a query, of which it has the question. Its number is for the caller to look at.
func Same(query, reply []byte) bool {
	end := Question(query)
	if end == 0 || len(reply) < end || reply[2]&0x80 == 0 || Question(reply) != end {
		return false
	}
	for i := headerLen; i < end; i++ {
		if lower(query[i]) != lower(reply[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// CodeOf is the code of an answer.
func CodeOf(reply []byte) Code { return Code(reply[3] & 15) }

// Servers reads the servers of a resolv.conf(5), three at most, which is how many resolvers look at. Where there is none it is that of this machine.
func Servers(text string) (servers []string) {
	const most = 3
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && len(servers) < most {
			servers = append(servers, f[1])
		}
	}
	if servers == nil {
		return []string{"127.0.0.1"}
	}
	return servers
}
