// Package relay stands between QEMU and virtiofsd where a machine's memory is private to QEMU, as that of a machine is which shares its template's: virtiofsd cannot map it.
//
// Towards QEMU it is a device of vhost-user (docs/interop/vhost-user.rst of QEMU), towards virtiofsd it is QEMU. It takes each request out of the guest's queue, copies it to memory that
// virtiofsd has mapped, puts it on a queue there, and copies what was answered back. So all that a file is and does is virtiofsd's, as without a relay; but a guest may keep what it has read of a
// file that is opened again and was not changed, which the relay finds out by a question of its own.
//
// The guest's queues are read and written by a descriptor of QEMU's memory, at addresses that lie in what QEMU has said to be the guest's memory; they are hostile, and each number out of
// them is read once and checked. What virtiofsd has put on its queue is checked too: it reads what a guest says. Whoever breaks the rules ends the relay, with an error that says how.
//
// Each queue is one goroutine's, which shares nothing with the others: a queue that QEMU changes is stopped before, and its requests are let finish.
package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
)

// Memory is that of QEMU's process, by its own addresses.
type Memory interface {
	io.ReaderAt
	io.WriterAt
}

// queues is how many the device has: one for what must not wait, one for requests.
const queues = 2

// Relay is between one QEMU and one virtiofsd.
type Relay struct {
	qemu, virtiofsd peer

	mem    Memory
	daemon *daemon
	failed chan error // of a queue, the first

	features uint64
	guest    guestMemory
	queue    [queues]queue
	files    [queues]files
}

// New takes up the connections to both. The files stay the caller's.
func New(qemu, virtiofsd *os.File, mem Memory) (*Relay, error) {
	r := &Relay{mem: mem, failed: make(chan error, 1)}
	for i := range r.queue {
		r.queue[i].kick, r.queue[i].call = -1, -1
		r.files[i] = files{}
	}
	var err error
	if r.qemu, err = newPeer(qemu); err != nil {
		return nil, err
	}
	if r.virtiofsd, err = newPeer(virtiofsd); err != nil {
		r.qemu.c.Close()
		return nil, err
	}
	return r, nil
}

// Serve relays until a side ends, or breaks the rules, and leaves nothing behind.
func (r *Relay) Serve() (err error) {
	defer r.qemu.c.Close()
	if r.daemon, err = drive(r.virtiofsd); err != nil {
		return fmt.Errorf("virtiofsd: %w", err)
	}
	defer r.daemon.close()
	for err == nil {
		var m message
		if m, err = r.qemu.receive(); err == nil {
			err = r.take(&m)
			m.close()
		}
	}
	err = fmt.Errorf("QEMU: %w", err)
	select {
	case err = <-r.failed:
	default:
	}
	for i := range r.queue {
		q := &r.queue[i]
		if q.worker != nil {
			q.worker.abandon.Store(true)
			q.halt()
		}
		replace(&q.kick, -1)
		replace(&q.call, -1)
	}
	return err
}

// size is how many bytes the payload of a request has, -1 where that is seen later.
func size(request uint32) int {
	switch request {
	case getFeatures, setOwner, getProtocolFeatures, getQueueNum:
		return 0
	case setFeatures, setProtocolFeatures, setVringNum, setVringBase, getVringBase, setVringKick, setVringCall, setVringErr, setVringEnable:
		return 8
	case setVringAddr:
		return 40
	}
	return -1
}

// take does what QEMU asks for.
func (r *Relay) take(m *message) error {
	if want := size(m.request); want >= 0 && len(m.payload) != want {
		return fmt.Errorf("request %d with %d bytes instead of %d", m.request, len(m.payload), want)
	}
	switch m.request {
	case getFeatures:
		return r.answer(m, featureVersion1|featureProtocol|featureIndirect)
	case getProtocolFeatures:
		return r.answer(m, protocolMQ|protocolAck)
	case getQueueNum:
		return r.answer(m, queues)
	case getVringBase:
		i, _ := m.state()
		q, err := r.at(i)
		if err != nil {
			return err
		}
		q.halt()
		return r.qemu.send(m.request, flagReply, pair(int(i), int(q.ring.next)))
	}
	err := r.set(m)
	if err == nil && m.flags&flagAck != 0 {
		err = r.answer(m, 0)
	}
	return err
}

func (r *Relay) answer(m *message, n uint64) error {
	return r.qemu.send(m.request, flagReply, words(n))
}

// at is the queue of a number.
func (r *Relay) at(i uint32) (*queue, error) {
	if i >= queues {
		return nil, fmt.Errorf("queue %d of %d", i, queues)
	}
	return &r.queue[i], nil
}

// set does what has no answer of its own.
func (r *Relay) set(m *message) error {
	switch m.request {
	case setOwner:
		return nil
	case setFeatures:
		r.features = m.number(0)
		return nil
	case setProtocolFeatures:
		return nil // neither of them changes what is done
	case setMemTable:
		g, err := readTable(m.payload)
		if err != nil {
			return err
		}
		return r.changed(func() { r.guest = g })
	}
	if len(m.payload) < 8 {
		return fmt.Errorf("request %d is not known", m.request)
	}
	i, value := m.state()
	if m.request == setVringKick || m.request == setVringCall || m.request == setVringErr {
		return r.setFile(m, i)
	}
	q, err := r.at(i)
	if err != nil {
		return err
	}
	switch m.request {
	case setVringNum:
		if value == 0 || value > maxRing || value&(value-1) != 0 {
			return fmt.Errorf("queue %d of %d entries", i, value)
		}
		return r.changed(func() { q.ring.size = uint16(value) })
	case setVringBase:
		if value > math.MaxUint16 {
			return fmt.Errorf("queue %d starts at %d", i, value)
		}
		return r.changed(func() { q.ring.next, q.ring.used = uint16(value), uint16(value) })
	case setVringAddr:
		desc, used, avail := m.number(1), m.number(2), m.number(3)
		if max(desc, used, avail) > maxAddress {
			return fmt.Errorf("queue %d is at %#x, %#x, %#x", i, desc, used, avail)
		}
		return r.changed(func() { q.ring.desc, q.ring.usedAt, q.ring.avail = int64(desc), int64(used), int64(avail) })
	case setVringEnable:
		return r.changed(func() { q.enabled = value != 0 })
	}
	return fmt.Errorf("request %d is not known", m.request)
}

// setFile takes the descriptor by which a queue is kicked, or calls.
func (r *Relay) setFile(m *message, i uint32) error {
	q, err := r.at(i &^ noFile)
	if err != nil {
		return err
	}
	fd := -1
	if i&noFile == 0 {
		if fd, err = m.file(); err != nil {
			return err
		}
	}
	switch m.request {
	case setVringKick:
		return r.changed(func() { replace(&q.kick, fd) })
	case setVringCall:
		return r.changed(func() { replace(&q.call, fd) })
	}
	replace(&fd, -1) // what is wrong is said aloud
	return nil
}

// changed changes what queues are made of while none runs, and has those run that can.
func (r *Relay) changed(change func()) error {
	for i := range r.queue {
		r.queue[i].halt()
	}
	change()
	for i := range r.queue {
		q := &r.queue[i]
		if !q.enabled || q.kick < 0 || q.ring.size == 0 || q.ring.desc == 0 {
			continue
		}
		w, err := newWorker(q, r.mem, &r.guest, r.daemon, i, r.features&featureIndirect != 0, r.files[i])
		if err != nil {
			return err
		}
		q.worker = w
		q.over.Add(1)
		go func() {
			defer q.over.Done()
			if err := w.run(); err != nil {
				select {
				case r.failed <- err:
				default: // there is one already
				}
				r.qemu.c.Close()
			}
		}()
	}
	return nil
}

// queue is one of the guest's, as QEMU has described it.
type queue struct {
	ring       ring
	kick, call int // -1: none
	enabled    bool
	worker     *worker // nil: it does not run
	over       sync.WaitGroup
}

// halt ends the queue's worker, when what virtiofsd has of it is done.
func (q *queue) halt() {
	if q.worker == nil {
		return
	}
	q.worker.stop()
	q.over.Wait()
	q.ring = q.worker.ring
	q.worker.close()
	q.worker = nil
}

// region is a part of the guest's memory.
type region struct{ guest, size, host uint64 }

// guestMemory is where in QEMU's the guest's memory is.
type guestMemory struct{ regions []region }

const (
	maxRegions = 8
	maxAddress = 1<<47 - 1 // of a process
)

// readTable reads the payload of setMemTable.
func readTable(b []byte) (g guestMemory, err error) {
	if len(b) < 8 {
		return g, errors.New("a table of memory without a head")
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[8:]; n > maxRegions || len(b) != int(n)*32 {
		return g, fmt.Errorf("a table of %d regions of memory with %d bytes", n, len(b))
	}
	for ; len(b) > 0; b = b[32:] {
		r := region{guest: binary.LittleEndian.Uint64(b), size: binary.LittleEndian.Uint64(b[8:]), host: binary.LittleEndian.Uint64(b[16:])}
		if r.size > maxAddress || r.guest > math.MaxUint64-r.size || r.host > maxAddress-r.size {
			return g, fmt.Errorf("a region of %d bytes at %#x that is at %#x", r.size, r.guest, r.host)
		}
		g.regions = append(g.regions, r)
	}
	return g, nil
}

// find is where n bytes of the guest's memory are. They are in one region.
func (g *guestMemory) find(guest, n uint64) (int64, error) {
	for _, r := range g.regions {
		if off := guest - r.guest; guest >= r.guest && off < r.size && n <= r.size-off {
			return int64(r.host + off), nil
		}
	}
	return 0, fmt.Errorf("%d bytes at %#x are not in the machine's memory", n, guest)
}
