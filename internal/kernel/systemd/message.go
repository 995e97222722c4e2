package systemd

import (
	"encoding/binary"
	"math"
	"strings"

	"brig/api"
)

// The wire format is that of the D-Bus specification 0.43, "Message Protocol", little-endian.

// Types of messages, and the header's fields.
const (
	typeCall, typeReply, typeError, typeSignal = 1, 2, 3, 4

	fieldPath, fieldInterface, fieldMember, fieldErrorName, fieldReplySerial, fieldDestination, fieldSender, fieldSignature = 1, 2, 3, 4, 5, 6, 7, 8

	flagNoReply = 1

	mostMessage = 1 << 20 // the specification allows 128 MiB; no answer that is asked for here comes near this
	mostDepth   = 32      // of arrays, and of structs
)

// message is what this package needs of one.
type message struct {
	kind, flags                  byte
	serial, replySerial          uint32
	path, iface, member          string
	destination, errorName, from string
	signature                    string
	body                         []byte
	big                          bool // the byte order of what was received
}

// Path is an object path, which differs from a string on the wire.
type Path string

// Pair is a struct of two strings, (ss), as in DeviceAllow.
type Pair struct{ A, B string }

// Property is one property of a unit. Its Value is a bool, string, float64, byte, (u)int16 to (u)int64, []byte, []string, []uint32,
// []uint64 or []Pair.
type Property struct {
	Name  string
	Value any
}

// encoder appends values with the padding that their types want, counted from its start.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) u32(n uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, n)
}

func (e *encoder) u64(n uint64) {
	e.align(8)
	e.b = binary.LittleEndian.AppendUint64(e.b, n)
}

func (e *encoder) str(s string) {
	e.u32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

func (e *encoder) sig(s string) { e.b = append(append(append(e.b, byte(len(s))), s...), 0) }

// array writes a length, the padding of the elements, and what f writes.
func (e *encoder) array(align int, f func()) {
	e.u32(0)
	at := len(e.b) - 4
	e.align(align)
	start := len(e.b)
	f()
	binary.LittleEndian.PutUint32(e.b[at:], uint32(len(e.b)-start))
}

// signatureOf names the type of a property's value, "" for one that is not known.
func signatureOf(v any) string {
	switch v.(type) {
	case byte:
		return "y"
	case bool:
		return "b"
	case int16:
		return "n"
	case uint16:
		return "q"
	case int32:
		return "i"
	case uint32:
		return "u"
	case int64:
		return "x"
	case uint64:
		return "t"
	case float64:
		return "d"
	case string:
		return "s"
	case Path:
		return "o"
	case []byte:
		return "ay"
	case []string:
		return "as"
	case []uint32:
		return "au"
	case []uint64:
		return "at"
	case []Pair:
		return "a(ss)"
	}
	return ""
}

func (e *encoder) value(v any) {
	switch v := v.(type) {
	case byte:
		e.b = append(e.b, v)
	case bool:
		n := uint32(0)
		if v {
			n = 1
		}
		e.u32(n)
	case int16:
		e.align(2)
		e.b = binary.LittleEndian.AppendUint16(e.b, uint16(v))
	case uint16:
		e.align(2)
		e.b = binary.LittleEndian.AppendUint16(e.b, v)
	case int32:
		e.u32(uint32(v))
	case uint32:
		e.u32(v)
	case int64:
		e.u64(uint64(v))
	case uint64:
		e.u64(v)
	case float64:
		e.u64(math.Float64bits(v))
	case string:
		e.str(v)
	case Path:
		e.str(string(v))
	case []byte:
		e.array(1, func() { e.b = append(e.b, v...) })
	case []string:
		e.array(4, func() {
			for _, s := range v {
				e.str(s)
			}
		})
	case []uint32:
		e.array(4, func() {
			for _, n := range v {
				e.u32(n)
			}
		})
	case []uint64:
		e.array(8, func() {
			for _, n := range v {
				e.u64(n)
			}
		})
	case []Pair:
		e.array(8, func() {
			for _, p := range v {
				e.align(8)
				e.str(p.A)
				e.str(p.B)
			}
		})
	}
}

func (e *encoder) variant(v any) {
	e.sig(signatureOf(v))
	e.value(v)
}

// properties writes a(sv).
func (e *encoder) properties(list []Property) {
	e.array(8, func() {
		for _, p := range list {
			e.align(8)
			e.str(p.Name)
			e.variant(p.Value)
		}
	})
}

// encode is the message as it goes over the wire.
func (m *message) encode() []byte {
	e := &encoder{b: []byte{'l', m.kind, m.flags, 1}}
	e.u32(uint32(len(m.body)))
	e.u32(m.serial)
	e.array(8, func() {
		field := func(code byte, v any, sig string) {
			e.align(8)
			e.b = append(e.b, code)
			e.sig(sig)
			e.value(v)
		}
		for _, f := range [...]struct {
			code byte
			text string
		}{{fieldInterface, m.iface}, {fieldMember, m.member}, {fieldErrorName, m.errorName}, {fieldDestination, m.destination}} {
			if f.text != "" {
				field(f.code, f.text, "s")
			}
		}
		if m.path != "" {
			field(fieldPath, m.path, "o")
		}
		if m.replySerial != 0 {
			field(fieldReplySerial, m.replySerial, "u")
		}
		if m.signature != "" {
			e.align(8)
			e.b = append(e.b, fieldSignature)
			e.sig("g")
			e.sig(m.signature)
		}
	})
	e.align(8)
	return append(e.b, m.body...)
}

// decoder reads values; all that it is given is checked, since a bus hands on what others sent.
type decoder struct {
	b   []byte
	at  int
	big bool
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b)-d.at {
		d.bad = true
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) align(n int) {
	if pad := (n - d.at%n) % n; pad > 0 {
		d.take(pad)
	}
}

func (d *decoder) number(size int) uint64 {
	d.align(size)
	b := d.take(size)
	if b == nil {
		return 0
	}
	n := uint64(0)
	for i := range b {
		if d.big {
			n = n<<8 | uint64(b[i])
		} else {
			n |= uint64(b[i]) << (8 * i)
		}
	}
	return n
}

// text reads the bytes of a string behind its length, and its final NUL.
func (d *decoder) text(n uint64) string {
	if n > mostMessage {
		d.bad = true
		return ""
	}
	b := d.take(int(n))
	end := d.take(1)
	if d.bad || end[0] != 0 || strings.IndexByte(string(b), 0) >= 0 {
		d.bad = true
		return ""
	}
	return string(b)
}

// value reads one value of the single complete type that sig begins with, and returns the rest of sig. Strings, paths and signatures
// become string, bool bool, numbers uint64, int64 or float64, arrays and structs []any, dict entries too; variants their value.
func (d *decoder) value(sig string, depth int) (any, string) {
	if sig == "" || depth > mostDepth {
		d.bad = true
	}
	if d.bad {
		return nil, ""
	}
	rest := sig[1:]
	switch sig[0] {
	case 'y':
		return d.number(1), rest
	case 'b':
		return d.number(4) == 1, rest
	case 'n':
		return int64(int16(d.number(2))), rest
	case 'q':
		return d.number(2), rest
	case 'i':
		return int64(int32(d.number(4))), rest
	case 'u', 'h':
		return d.number(4), rest
	case 'x':
		return int64(d.number(8)), rest
	case 't':
		return d.number(8), rest
	case 'd':
		return math.Float64frombits(d.number(8)), rest
	case 's', 'o':
		return d.text(d.number(4)), rest
	case 'g':
		return d.text(d.number(1)), rest
	case 'v':
		inner := d.text(d.number(1))
		v, left := d.value(inner, depth+1)
		if left != "" {
			d.bad = true
		}
		return v, rest
	case 'a':
		return d.arrayValue(rest, depth)
	case '(', '{':
		return d.structValue(sig, depth)
	}
	d.bad = true
	return nil, ""
}

func (d *decoder) arrayValue(element string, depth int) (any, string) {
	n := d.number(4)
	rest, ok := skip(element, depth+1)
	if !ok || n > mostMessage {
		d.bad = true
		return nil, ""
	}
	d.align(alignment(element[0]))
	end := d.at + int(n)
	var list []any
	for !d.bad && d.at < end {
		v, _ := d.value(element, depth+1)
		list = append(list, v)
	}
	if d.at != end {
		d.bad = true
	}
	return list, rest
}

func (d *decoder) structValue(sig string, depth int) (any, string) {
	closing := byte(')')
	if sig[0] == '{' {
		closing = '}'
	}
	d.align(8)
	var list []any
	rest := sig[1:]
	for !d.bad && rest != "" && rest[0] != closing {
		var v any
		v, rest = d.value(rest, depth+1)
		list = append(list, v)
	}
	if rest == "" || len(list) == 0 {
		d.bad = true
		return nil, ""
	}
	return list, rest[1:]
}

// skip returns what follows the first complete type of sig.
func skip(sig string, depth int) (string, bool) {
	if sig == "" || depth > mostDepth {
		return "", false
	}
	switch sig[0] {
	case 'a':
		return skip(sig[1:], depth+1)
	case '(', '{':
		closing := byte(')')
		if sig[0] == '{' {
			closing = '}'
		}
		rest, ok := sig[1:], true
		for ok && rest != "" && rest[0] != closing {
			rest, ok = skip(rest, depth+1)
		}
		if !ok || rest == "" || len(rest) == len(sig)-1 {
			return "", false
		}
		return rest[1:], true
	}
	return sig[1:], strings.IndexByte("ybnqiuhxtdsogv", sig[0]) >= 0
}

func alignment(kind byte) int {
	switch kind {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 'h', 's', 'o', 'a':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1
}

// headerSize is the part of a message that tells how long it is.
const headerSize = 16

// size is the length of a whole message from its first 16 bytes.
func size(head []byte) (int, error) {
	d := &decoder{b: head, at: 4, big: head[0] == 'B'}
	body, _, fields := d.number(4), d.number(4), d.number(4)
	if head[0] != 'l' && head[0] != 'B' || head[3] != 1 || body > mostMessage || fields > mostMessage {
		return 0, api.Errorf(api.Corrupt, "systemd bus: this is no D-Bus message of at most %d bytes", mostMessage)
	}
	return headerSize + (int(fields)+7)/8*8 + int(body), nil
}

// decode reads a whole message.
func decode(b []byte) (*message, error) {
	bad := api.Errorf(api.Corrupt, "systemd bus: a malformed message")
	if len(b) < headerSize {
		return nil, bad
	}
	if n, err := size(b); err != nil || n != len(b) {
		return nil, bad
	}
	d := &decoder{b: b, at: 4, big: b[0] == 'B'}
	body := int(d.number(4))
	m := &message{kind: b[1], flags: b[2], serial: uint32(d.number(4)), body: b[len(b)-body:], big: d.big}
	d.b = b[:len(b)-body]
	fields, _ := d.value("a(yv)", 0)
	d.align(8)
	if d.bad || d.at != len(d.b) {
		return nil, bad
	}
	list, _ := fields.([]any)
	for _, f := range list {
		pair := f.([]any)
		text, _ := pair[1].(string)
		switch pair[0].(uint64) {
		case fieldPath:
			m.path = text
		case fieldInterface:
			m.iface = text
		case fieldMember:
			m.member = text
		case fieldErrorName:
			m.errorName = text
		case fieldReplySerial:
			n, _ := pair[1].(uint64)
			m.replySerial = uint32(n)
		case fieldDestination:
			m.destination = text
		case fieldSender:
			m.from = text
		case fieldSignature:
			m.signature = text
		}
	}
	return m, nil
}

// values reads the body.
func (m *message) values() ([]any, error) {
	d := &decoder{b: m.body, big: m.big}
	var list []any
	for sig := m.signature; sig != ""; {
		var v any
		v, sig = d.value(sig, 0)
		if d.bad {
			return nil, api.Errorf(api.Corrupt, "systemd bus: a malformed body of %s", m.member)
		}
		list = append(list, v)
	}
	return list, nil
}
