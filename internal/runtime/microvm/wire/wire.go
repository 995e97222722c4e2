// Package wire is what a virtual machine's monitor and the agent inside say to each other, over a stream of bytes: frames, and what is in them. It does
// nothing but encode and decode, so that it can be fuzzed by itself.
//
// The monitor takes whatever comes out of the machine as an attacker's. A frame from there has at most MaxBody bytes, its body has exactly the form of its
// kind, or it is an error; nothing is allocated that was only announced. What may come when, on which stream and how much of it, is the monitor's to check.
//
// A stream is one process, under a number of the monitor's choice: First is the container's, each exec has a higher one. Output and input are metered: who
// sends may have at most Window bytes of each on their way that the other has not passed on and given credit for. So no process's output holds up another's,
// and neither side has to keep more.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Version is of the protocol. A guest says it in Hello.
const Version = 2

// First is the stream of the container's own process.
const First = 1

// Names of the machine's devices.
const (
	PortName = "brig" // of the virtio-serial port that is the channel
	TreeTag  = "root" // of the virtiofs that is the container's tree
)

const (
	// HeaderLen is the length of a frame's header, in bytes: kind, stream, length of the body, little endian.
	HeaderLen = 9
	// MaxBody is the most bytes in the body of a frame from the guest.
	MaxBody = 64 << 10
	// MaxOrder is the most bytes in the body of a frame to the guest: a configuration is one.
	MaxOrder = 8 << 20
	// Window is how many bytes of one direction of a stream may be under way.
	Window = 256 << 10
	// MaxText is the longest explanation that is taken from a guest, in bytes.
	MaxText = 4 << 10
)

// Kind says what a frame's body is.
type Kind byte

// To the guest.
const (
	Boot   Kind = 'B' // Settings: once, or once more after Rest, before all else
	Start  Kind = 'S' // a process to be started on a new stream, as JSON
	Stdin  Kind = 'I' // bytes of standard input; none: its end
	Signal Kind = 'K' // one byte: the number of a signal
	Resize Kind = 'W' // rows and columns, two 16-bit numbers
	Credit Kind = 'C' // which output (1, 2), and how many bytes of it were passed on (32 bits)
	Ping   Kind = 'P' // the time, nanoseconds of the epoch, by which the guest sets its clock
	Answer Kind = 'A' // of a question: a DNS message; none: there is no answer
	Rest   Kind = 'R' // nothing: forget the container that has ended, and be as before Boot. Only a machine that becomes a template is told so
)

// From the guest.
const (
	Hello   Kind = 'h' // Version, 32 bits
	Started Kind = 's' // nothing: the stream's process executes
	Failed  Kind = 'f' // why it does not: kind of error, zero byte, text. The stream is over
	Stdout  Kind = 'o' // bytes
	Stderr  Kind = 'e' // bytes
	Took    Kind = 't' // how many bytes of standard input the process took (32 bits)
	Exit    Kind = 'x' // how it ended: exit status, signal, and what had run out, EndMemory and EndCrowded: three bytes. The stream is over
	Pong    Kind = 'p' // the body of a Ping
	Rested  Kind = 'r' // nothing: what Rest asked for
	Ask     Kind = 'a' // a question to the resolver: the stream is the question's number; first byte: 0 UDP, 1 TCP; a DNS message
)

// What had run out when a process ended: memory, or, where it failed, processes.
const (
	EndMemory  = 1
	EndCrowded = 2
)

// Frame is one message.
type Frame struct {
	Kind   Kind
	Stream uint32
	Body   []byte
}

// Append writes a frame behind b.
func Append(b []byte, f Frame) []byte {
	b = append(b, byte(f.Kind))
	b = binary.LittleEndian.AppendUint32(b, f.Stream)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Body)))
	return append(b, f.Body...)
}

// Read takes one frame whose body has at most limit bytes; buf is reused where it is large enough. io.EOF within a frame is io.ErrUnexpectedEOF.
func Read(r io.Reader, limit int, buf []byte) (Frame, error) {
	var h [HeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(h[0]), Stream: binary.LittleEndian.Uint32(h[1:])}
	n := binary.LittleEndian.Uint32(h[5:])
	if n > uint32(limit) {
		return f, fmt.Errorf("a frame of %d bytes; the most is %d", n, limit)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	f.Body = buf[:n]
	if _, err := io.ReadFull(r, f.Body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return f, err
	}
	return f, nil
}

// Check reports what is wrong with the form of a frame from the guest; nil: nothing.
func (f *Frame) Check() error {
	want := -1
	switch f.Kind {
	case Hello, Took:
		want = 4
	case Started, Rested:
		want = 0
	case Exit:
		want = 3
	case Pong:
		want = 8
	case Stdout, Stderr:
		if len(f.Body) == 0 {
			return fmt.Errorf("an empty frame of output")
		}
	case Ask:
		if len(f.Body) < 2 || f.Body[0] > 1 {
			return fmt.Errorf("a question of no known form")
		}
	case Failed:
		if len(f.Body) > MaxText {
			return fmt.Errorf("an explanation of %d bytes", len(f.Body))
		}
	default:
		return fmt.Errorf("a frame of unknown kind %q", byte(f.Kind))
	}
	if want >= 0 && len(f.Body) != want {
		return fmt.Errorf("a frame of kind %c with %d bytes instead of %d", f.Kind, len(f.Body), want)
	}
	if f.Kind == Exit && f.Body[2]&^(EndMemory|EndCrowded) != 0 {
		return fmt.Errorf("an end for want of what is not known")
	}
	return nil
}

// Number is a 32-bit number.
func Number(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// ParseNumber reads the body of Hello and Took; 0 for one that has another length.
func ParseNumber(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

// Size is the body of Resize.
func Size(rows, cols uint16) []byte {
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, rows), cols)
}

// ParseSize reads it.
func ParseSize(b []byte) (rows, cols uint16, ok bool) {
	if len(b) != 4 {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), true
}

// CreditOf is the body of Credit.
func CreditOf(output byte, n uint32) []byte { return append([]byte{output}, Number(n)...) }

// ParseCredit reads it.
func ParseCredit(b []byte) (output byte, n uint32, ok bool) {
	if len(b) != 5 || b[0] != 1 && b[0] != 2 {
		return 0, 0, false
	}
	return b[0], ParseNumber(b[1:]), true
}
