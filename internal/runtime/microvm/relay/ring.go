package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A split virtqueue (virtio 1.2, 2.7): a table of descriptors, the ring of those chains that the driver has made available, the ring of those that the device has used.
const (
	descLen   = 16 // bytes: address, length, flags, next
	usedLen   = 8  // bytes: head, length
	maxRing   = 1024
	flagNext  = 1
	flagWrite = 2 // by the device
	flagTable = 4 // of descriptors, not of data

	noInterrupt = 1 // flag of the ring of what is available
)

const (
	// maxChain is how many descriptors a request may have, and maxBytes how many bytes: FUSE's largest is 1 MiB and some headers.
	maxChain = 1024
	maxBytes = 1<<20 + 64<<10
)

// ring is a queue in QEMU's memory.
type ring struct {
	size                uint16
	desc, avail, usedAt int64
	next, used          uint16 // the next one that will be available, and used
	buf                 []byte // for the descriptors of the table
}

// piece is a part of a request: bytes in QEMU's memory.
type piece struct {
	at  int64
	len int
}

// request is a chain of descriptors, checked.
type request struct {
	head              uint16
	out, in           []piece // of the guest's question, for the answer
	outBytes, inBytes int
	asked             asked
}

// available is how many chains the guest has made available that were not taken, and whether it wants to be called.
func (r *ring) available(mem Memory) (n uint16, err error) {
	var b [4]byte
	if _, err := mem.ReadAt(b[:], r.avail); err != nil {
		return 0, err
	}
	n = binary.LittleEndian.Uint16(b[2:]) - r.next
	if n > r.size {
		return 0, fmt.Errorf("%d requests are available in a ring of %d", n, r.size)
	}
	return n, nil
}

// take takes the next chain into q, whose pieces it reuses. What the guest changes meanwhile is of no matter: each byte is read once.
func (r *ring) take(mem Memory, g *guestMemory, indirect bool, q *request) error {
	var b [2]byte
	if _, err := mem.ReadAt(b[:], r.avail+4+2*int64(r.next&(r.size-1))); err != nil {
		return err
	}
	*q = request{head: binary.LittleEndian.Uint16(b[:]), out: q.out[:0], in: q.in[:0]}
	r.next++
	if q.head >= r.size {
		return fmt.Errorf("descriptor %d in a table of %d", q.head, r.size)
	}
	d, err := r.descriptor(mem, r.desc, q.head)
	if err != nil {
		return err
	}
	if d.flags&flagTable == 0 {
		for n := 0; ; n++ {
			if n == int(r.size) {
				return fmt.Errorf("a request of more than the %d descriptors that there are", r.size)
			}
			if err := q.add(g, d); err != nil {
				return err
			}
			if d.flags&flagNext == 0 {
				return nil
			}
			if d.next >= r.size {
				return fmt.Errorf("descriptor %d in a table of %d", d.next, r.size)
			}
			if d, err = r.descriptor(mem, r.desc, d.next); err != nil {
				return err
			}
		}
	}
	if n := d.len / descLen; !indirect || d.flags&(flagNext|flagWrite) != 0 || n == 0 || n > maxChain || d.len%descLen != 0 {
		return fmt.Errorf("a table of descriptors of %d bytes, with flags %#x", d.len, d.flags)
	}
	at, err := g.find(d.addr, uint64(d.len))
	if err != nil {
		return err
	}
	if int(d.len) > cap(r.buf) {
		r.buf = make([]byte, d.len)
	}
	table := r.buf[:d.len]
	if _, err := mem.ReadAt(table, at); err != nil {
		return err
	}
	next := uint16(0)
	for n := 0; ; n++ {
		if n == len(table)/descLen {
			return fmt.Errorf("a request of more than the %d descriptors in its table", n)
		}
		if int(next) >= len(table)/descLen {
			return fmt.Errorf("descriptor %d in a table of %d", next, len(table)/descLen)
		}
		d := readDescriptor(table[descLen*int(next):])
		if err := q.add(g, d); err != nil {
			return err
		}
		if d.flags&flagNext == 0 {
			return nil
		}
		next = d.next
	}
}

// descriptor is one of the guest's, read once.
type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

func readDescriptor(b []byte) descriptor {
	le := binary.LittleEndian
	return descriptor{le.Uint64(b), le.Uint32(b[8:]), le.Uint16(b[12:]), le.Uint16(b[14:])}
}

func (r *ring) descriptor(mem Memory, table int64, i uint16) (descriptor, error) {
	var b [descLen]byte
	if _, err := mem.ReadAt(b[:], table+descLen*int64(i)); err != nil {
		return descriptor{}, err
	}
	return readDescriptor(b[:]), nil
}

// add appends what a descriptor describes. Pieces that touch become one.
func (q *request) add(g *guestMemory, d descriptor) error {
	if d.flags&^(flagNext|flagWrite) != 0 {
		return fmt.Errorf("a descriptor with flags %#x", d.flags)
	}
	if d.len == 0 {
		return errors.New("a descriptor of no bytes")
	}
	list, sum := &q.out, &q.outBytes
	if d.flags&flagWrite != 0 {
		list, sum = &q.in, &q.inBytes
	} else if len(q.in) > 0 {
		return errors.New("a request with a question behind its answer")
	}
	if uint64(d.len) > maxBytes || *sum+int(d.len) > maxBytes {
		return fmt.Errorf("a request of more than %d bytes", maxBytes)
	}
	at, err := g.find(d.addr, uint64(d.len))
	if err != nil {
		return err
	}
	*sum += int(d.len)
	// The first two of a question stay by themselves: virtiofsd takes them for its header and what a write is.
	if n := len(*list); n > 0 && (d.flags&flagWrite != 0 || n > 2) && (*list)[n-1].at+int64((*list)[n-1].len) == at {
		(*list)[n-1].len += int(d.len)
		return nil
	}
	*list = append(*list, piece{at, int(d.len)})
	return nil
}

// done tells the guest that a chain was used, with so many bytes for the answer.
func (r *ring) done(mem Memory, head uint16, n int) error {
	var b [usedLen]byte
	binary.LittleEndian.PutUint32(b[:], uint32(head))
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	if _, err := mem.WriteAt(b[:], r.usedAt+4+usedLen*int64(r.used&(r.size-1))); err != nil {
		return err
	}
	r.used++
	return nil
}

// publish lets the guest see what is done, and reports whether it wants to be called.
func (r *ring) publish(mem Memory) (call bool, err error) {
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], r.used)
	if _, err := mem.WriteAt(b[:], r.usedAt+2); err != nil {
		return false, err
	}
	if _, err := mem.ReadAt(b[:], r.avail); err != nil { // the call is a barrier
		return false, err
	}
	return binary.LittleEndian.Uint16(b[:])&noInterrupt == 0, nil
}
