package wire

import (
	"encoding/binary"
	"errors"
)

// Settings is the body of Boot. It is not JSON: an emulated machine runs each part of a general decoder for the first time, which takes as long as to set up its network.
type Settings struct {
	Time  int64  // nanoseconds of the epoch
	Seed  []byte // randomness that no other machine gets
	Links []Link
	DNS   bool // somebody answers questions
	Late  bool // the machine is a template's: its first interface is the one that the template had, NICAddress, and more have come since
}

// NICAddress is the MAC of the interface that a template has.
const NICAddress = "52:54:00:00:00:01"

// Link is a network interface, known by its MAC.
type Link struct {
	Name   string
	MAC    string // as net.HardwareAddr's text
	MTU    uint32
	Addrs  []string // with their prefixes
	Routes []Route
}

// Route is a way out of an interface.
type Route struct {
	Dst     string // prefix
	Gateway string // empty: on the link
}

// Encode writes the settings: numbers as varints, texts and lists behind their lengths.
func (s *Settings) Encode() []byte {
	b := binary.AppendVarint(nil, s.Time)
	b = appendText(b, string(s.Seed))
	b = appendBool(appendBool(b, s.DNS), s.Late)
	b = binary.AppendUvarint(b, uint64(len(s.Links)))
	for _, l := range s.Links {
		b = appendText(appendText(b, l.Name), l.MAC)
		b = binary.AppendUvarint(b, uint64(l.MTU))
		b = binary.AppendUvarint(b, uint64(len(l.Addrs)))
		for _, a := range l.Addrs {
			b = appendText(b, a)
		}
		b = binary.AppendUvarint(b, uint64(len(l.Routes)))
		for _, r := range l.Routes {
			b = appendText(appendText(b, r.Dst), r.Gateway)
		}
	}
	return b
}

// ParseSettings reads what Encode wrote.
func ParseSettings(body []byte) (Settings, error) {
	r := reader{b: body}
	s := Settings{Time: r.varint(), Seed: []byte(r.text()), DNS: r.bool(), Late: r.bool()}
	for range r.length() {
		l := Link{Name: r.text(), MAC: r.text(), MTU: uint32(r.uvarint())}
		for range r.length() {
			l.Addrs = append(l.Addrs, r.text())
		}
		for range r.length() {
			l.Routes = append(l.Routes, Route{Dst: r.text(), Gateway: r.text()})
		}
		s.Links = append(s.Links, l)
	}
	if r.broken || len(r.b) > 0 {
		return Settings{}, errors.New("the machine's settings cannot be read")
	}
	return s, nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// reader takes from the front of b. After something that is not there it is broken, and gives zeros.
type reader struct {
	b      []byte
	broken bool
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.broken, r.b = true, nil
		return
	}
	r.b = r.b[n:]
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.skip(n)
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

// length is of something that takes a byte each at least.
func (r *reader) length() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.broken, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) text() string {
	n := r.length()
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) bool() bool { return r.uvarint() == 1 }
