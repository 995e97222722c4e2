// Package netlink speaks rtnetlink, nf_tables and ctnetlink to the kernel: what a container's link needs of them, and no more.
//
// It exists beside the well-known libraries because of where it is used: in `brig run` every request counts, and every package that a
// program links is paid for at each start. Both libraries together add a third of a millisecond to the start of a program that does
// not even call them, most of it for package net and for tables built at start; this package builds nothing at start, and its users
// put many messages into one system call.
//
// A [Request] holds messages, one after the other; a [Conn] is a socket that belongs to the network namespace that its thread was in
// when it was made, wherever it is used later. [Conn.Do] sends all messages of a request at once. The kernel answers each in turn: the
// first failure is returned as an [Error] that names the message, and later rtnetlink messages are carried out all the same, while
// a batch of nf_tables messages (see [Request.Batch]) is carried out as a whole or not at all.
package netlink

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Request is one or more messages to be sent together. The zero value is empty and ready.
type Request struct {
	buf      []byte
	messages []message
	err      error // first attribute that does not fit
}

// message says where a message starts in buf and what it does, for errors.
type message struct {
	at   int
	what string
	ack  bool
}

// Start begins a message of the given type. What names it in errors: "create veth0". The header is the fixed structure that the
// protocol puts before the attributes. NLM_F_REQUEST is implied.
func (r *Request) Start(what string, typ, flags uint16, header []byte) {
	r.finish()
	r.messages = append(r.messages, message{at: len(r.buf), what: what, ack: flags&unix.NLM_F_ACK != 0})
	var h [unix.NLMSG_HDRLEN]byte
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	r.buf = append(append(r.buf, h[:]...), header...)
	r.pad()
}

// finish writes the length of the message that was being built.
func (r *Request) finish() {
	if n := len(r.messages); n > 0 {
		at := r.messages[n-1].at
		binary.NativeEndian.PutUint32(r.buf[at:], uint32(len(r.buf)-at))
	}
}

func (r *Request) pad() {
	for len(r.buf)%unix.NLMSG_ALIGNTO != 0 {
		r.buf = append(r.buf, 0)
	}
}

// open begins an attribute and tells where; close ends it. An attribute's length has 16 bits: a longer one spoils the request
// instead of wrapping around, so that the kernel never sees a length that the data does not have.
func (r *Request) open(attr uint16) int {
	at := len(r.buf)
	r.buf = append(r.buf, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(r.buf[at+2:], attr)
	return at
}

func (r *Request) close(at int) {
	n := len(r.buf) - at
	if n > math.MaxUint16 && r.err == nil {
		r.err = fmt.Errorf("netlink attribute %d has %d bytes, and 65535 is the most", binary.NativeEndian.Uint16(r.buf[at+2:]), n)
	}
	binary.NativeEndian.PutUint16(r.buf[at:], uint16(n))
	r.pad()
}

// Bytes adds an attribute as it is.
func (r *Request) Bytes(attr uint16, data []byte) {
	at := r.open(attr)
	r.buf = append(r.buf, data...)
	r.close(at)
}

// String adds a zero-terminated string.
func (r *Request) String(attr uint16, s string) {
	at := r.open(attr)
	r.buf = append(append(r.buf, s...), 0)
	r.close(at)
}

// Uint8 adds a byte.
func (r *Request) Uint8(attr uint16, v uint8) { r.Bytes(attr, []byte{v}) }

// Uint16 adds a number in the machine's byte order.
func (r *Request) Uint16(attr uint16, v uint16) {
	r.Bytes(attr, binary.NativeEndian.AppendUint16(nil, v))
}

// Uint32 adds a number in the machine's byte order, as rtnetlink has them.
func (r *Request) Uint32(attr uint16, v uint32) {
	r.Bytes(attr, binary.NativeEndian.AppendUint32(nil, v))
}

// Net16 and Net32 add a number in network byte order, as netfilter has them.
func (r *Request) Net16(attr uint16, v uint16) { r.Bytes(attr, binary.BigEndian.AppendUint16(nil, v)) }

// Net32 adds a number in network byte order.
func (r *Request) Net32(attr uint16, v uint32) { r.Bytes(attr, binary.BigEndian.AppendUint32(nil, v)) }

// Nest adds an attribute that holds the attributes that body adds.
func (r *Request) Nest(attr uint16, body func()) {
	at := r.open(attr | unix.NLA_F_NESTED)
	body()
	r.close(at)
}

// Len is the size of the request in bytes.
func (r *Request) Len() int { return len(r.buf) }
