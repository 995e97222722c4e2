package guest

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"brig/internal/runtime/microvm/wire"
)

// resolver hands questions about names to the monitor, which is where names are known.
type resolver struct {
	a   *agent
	udp net.PacketConn
	tcp net.Listener

	mu     sync.Mutex
	next   uint32
	asking map[uint32]func([]byte)
}

const (
	resolverAddr = "127.0.0.11:53"
	mostAsking   = 256 // questions without an answer; more are dropped, as a resolver under load does
	patience     = 20 * time.Second
)

// listen begins to take questions.
func listen(a *agent) (*resolver, error) {
	udp, err := net.ListenPacket("udp4", resolverAddr)
	if err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp4", resolverAddr)
	if err != nil {
		udp.Close()
		return nil, err
	}
	r := &resolver{a: a, udp: udp, tcp: tcp, asking: map[uint32]func([]byte){}}
	go r.datagrams(udp)
	go r.connections(tcp)
	return r, nil
}

// close takes no more questions.
func (r *resolver) close() {
	r.udp.Close()
	r.tcp.Close()
}

func (r *resolver) datagrams(l net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := l.ReadFrom(buf)
		if err != nil {
			return
		}
		r.ask(0, buf[:n], func(answer []byte) {
			if len(answer) > 0 {
				l.WriteTo(answer, from) //nolint:errcheck // who asked asks again
			}
		})
	}
}

func (r *resolver) connections(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go r.connection(c)
	}
}

func (r *resolver) connection(c net.Conn) {
	defer c.Close()
	for {
		_ = c.SetDeadline(time.Now().Add(patience)) // where it has ended the next read says so
		var n [2]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(n[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answered := make(chan []byte, 1)
		r.ask(1, question, func(answer []byte) { answered <- answer })
		answer := <-answered
		if len(answer) == 0 {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// ask sends a question; done gets the answer, which is empty when there is none.
func (r *resolver) ask(proto byte, question []byte, done func([]byte)) {
	r.mu.Lock()
	if len(r.asking) >= mostAsking || len(question) == 0 || len(question)+1 > wire.MaxBody {
		r.mu.Unlock()
		done(nil)
		return
	}
	r.next++
	id := r.next
	r.asking[id] = done
	r.mu.Unlock()
	time.AfterFunc(patience, func() { r.answer(id, nil) })
	r.a.send(wire.Frame{Kind: wire.Ask, Stream: id, Body: append([]byte{proto}, question...)})
}

// answer tells who asked. Without a resolver there is nobody.
func (r *resolver) answer(id uint32, answer []byte) {
	if r == nil {
		return
	}
	r.mu.Lock()
	done := r.asking[id]
	delete(r.asking, id)
	r.mu.Unlock()
	if done != nil {
		done(answer)
	}
}
