package relay

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The memory that virtiofsd has mapped: for each queue its rings, and slots, each of which holds one request. What is not used has no pages.
const (
	slots     = 16 // requests that virtiofsd has, at most
	perSlot   = 4  // descriptors: the two first parts of the question, its rest, the answer
	ringSize  = slots * perSlot
	availOff  = ringSize * descLen
	usedOff   = 2048
	ringsLen  = 4096
	slotLen   = 2 * maxBytes
	queueLen  = ringsLen + slots*slotLen
	sharedLen = queues * queueLen

	sharedAt = 1 << 32 // where the memory is, as virtiofsd is told: any address does
)

// The rings fit before each other, and in their page.
const (
	_ = uint(usedOff - (availOff + 4 + 2*ringSize))
	_ = uint(ringsLen - (usedOff + 4 + usedLen*ringSize))
)

// daemon is virtiofsd, whose device this process drives.
type daemon struct {
	peer
	fd    int    // of the memory that both have
	b     []byte // it
	queue [queues]shadow
}

// shadow is a queue of virtiofsd's. Nothing in it that virtiofsd may write is believed.
type shadow struct {
	fd         int    // of the memory
	base       int64  // in the memory
	b          []byte // of the memory, this queue's part
	kick, call int
	avail      uint16
	used       uint16
	held       [slots]bool // virtiofsd has it
	inFlight   int
	touched    bool // slots have pages
}

// drive makes memory and queues, and tells virtiofsd of them.
func drive(p peer) (_ *daemon, err error) {
	d := &daemon{peer: p, fd: -1}
	for i := range d.queue {
		d.queue[i].kick, d.queue[i].call = -1, -1
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.fd, err = unix.MemfdCreate("relay", unix.MFD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	if err := unix.Ftruncate(d.fd, sharedLen); err != nil {
		return nil, os.NewSyscallError("ftruncate", err)
	}
	d.b, err = unix.Mmap(d.fd, 0, sharedLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	features, err := d.ask(getFeatures)
	if err != nil {
		return nil, err
	}
	const want = featureVersion1 | featureProtocol
	if features&want != want {
		return nil, fmt.Errorf("its features are %#x, without %#x", features, want&^features)
	}
	if err := d.send(setFeatures, 0, words(want)); err != nil {
		return nil, err
	}
	if err := d.send(setOwner, 0, nil); err != nil {
		return nil, err
	}
	if err := d.send(setProtocolFeatures, 0, words(0)); err != nil {
		return nil, err
	}
	if err := d.send(setMemTable, 0, words(1, 0, sharedLen, sharedAt, 0), d.fd); err != nil {
		return nil, err
	}
	for i := range d.queue {
		q := &d.queue[i]
		*q = shadow{kick: -1, call: -1, fd: d.fd, base: int64(i) * queueLen, b: d.b[i*queueLen:][:queueLen:queueLen]}
		if q.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return nil, os.NewSyscallError("eventfd", err)
		}
		if q.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return nil, os.NewSyscallError("eventfd", err)
		}
		at := uint64(sharedAt + q.base)
		for _, m := range []struct {
			request uint32
			payload []byte
			fds     []int
		}{
			{setVringNum, pair(i, ringSize), nil},
			{setVringBase, pair(i, 0), nil},
			{setVringAddr, words(uint64(i), at, at+usedOff, at+availOff, 0), nil},
			{setVringCall, words(uint64(i)), []int{q.call}},
			{setVringKick, words(uint64(i)), []int{q.kick}},
			{setVringEnable, pair(i, 1), nil},
		} {
			if err := d.send(m.request, 0, m.payload, m.fds...); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// close gives up all of it. No queue is in use.
func (d *daemon) close() {
	d.c.Close()
	for i := range d.queue {
		replace(&d.queue[i].kick, -1)
		replace(&d.queue[i].call, -1)
	}
	replace(&d.fd, -1)
	if d.b != nil {
		_ = unix.Munmap(d.b) // it was mapped
	}
}

// word is 32 bits of the memory, which the other side may read or write meanwhile. Flags and index of a ring are one such.
func (s *shadow) word(off int) *uint32 { return (*uint32)(unsafe.Pointer(&s.b[off])) }

// free is a slot that virtiofsd does not have, -1: there is none.
func (s *shadow) free() int {
	for i, held := range s.held {
		if !held {
			return i
		}
	}
	return -1
}

// slot is the memory of one: the question, and behind it the answer.
func (s *shadow) slot(i int) []byte { return s.b[ringsLen+i*slotLen:][:slotLen:slotLen] }

// offer gives virtiofsd a slot. parts are the lengths of the question's parts, answer that of the answer, which has its place behind them.
func (s *shadow) offer(i int, parts []int, answer int) {
	at := uint64(s.base) + ringsLen + uint64(i)*slotLen
	first := i * perSlot
	n := len(parts)
	if answer > 0 {
		n++
	}
	for k := range n {
		flags, length := uint16(0), answer
		if k < len(parts) {
			length = parts[k]
		} else {
			flags = flagWrite
		}
		if k < n-1 {
			flags |= flagNext
		}
		b := s.b[(first+k)*descLen:]
		binary.LittleEndian.PutUint64(b, at)
		binary.LittleEndian.PutUint32(b[8:], uint32(length))
		binary.LittleEndian.PutUint16(b[12:], flags)
		binary.LittleEndian.PutUint16(b[14:], uint16(first+k+1))
		at += uint64(length)
	}
	binary.LittleEndian.PutUint16(s.b[availOff+4+2*int(s.avail%ringSize):], uint16(first))
	s.avail++
	s.held[i], s.touched = true, true
	s.inFlight++
	atomic.StoreUint32(s.word(availOff), uint32(s.avail)<<16)
}

// answered is a slot that virtiofsd is done with, and how many bytes of answer it has; -1: there is none.
func (s *shadow) answered() (i, n int, err error) {
	idx := uint16(atomic.LoadUint32(s.word(usedOff)) >> 16)
	if idx == s.used {
		return -1, 0, nil
	}
	b := s.b[usedOff+4+usedLen*int(s.used%ringSize):]
	head, length := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if head >= ringSize || head%perSlot != 0 || !s.held[head/perSlot] || length > maxBytes {
		return -1, 0, fmt.Errorf("virtiofsd answers request %d, which it does not have, with %d bytes", head, length)
	}
	s.used++
	i = int(head / perSlot)
	s.held[i] = false
	s.inFlight--
	return i, int(length), nil
}

// rest gives back the pages of slots.
func (s *shadow) rest() {
	if s.inFlight > 0 || !s.touched {
		return
	}
	s.touched = false
	_ = unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.base+ringsLen, slots*slotLen) // they are a matter of memory alone
}
