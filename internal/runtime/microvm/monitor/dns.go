package monitor

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"brig/internal/runtime/microvm/wire"
)

// resolverAddr is where the keeper answers questions about names, in the box's network namespace.
const resolverAddr = "127.0.0.11:53"

// ask passes a question of the machine's on. So many are asked at a time; more are dropped, and whoever asked asks again.
func (s *session) ask(f *wire.Frame) {
	select {
	case s.asking <- struct{}{}:
	default:
		return
	}
	id, tcp, question := f.Stream, f.Body[0] == 1, append([]byte(nil), f.Body[1:]...)
	go func() {
		defer func() { <-s.asking }()
		answer, _ := resolve(tcp, question) // no answer is an empty one
		s.send(wire.Frame{Kind: wire.Answer, Stream: id, Body: answer})
	}()
}

func resolve(tcp bool, question []byte) ([]byte, error) {
	network := "udp4"
	if tcp {
		network = "tcp4"
	}
	c, err := net.DialTimeout(network, resolverAddr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(15 * time.Second)) //nolint:errcheck // a socket has one
	if tcp {
		question = append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	}
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	if !tcp {
		buf := make([]byte, 64<<10)
		n, err := c.Read(buf)
		return buf[:max(n, 0)], err
	}
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err = io.ReadFull(c, buf)
	return buf, err
}
