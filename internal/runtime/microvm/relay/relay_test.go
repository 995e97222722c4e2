package relay

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pairOfSockets(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
}

// fakeDaemon is a virtiofsd that answers each request with the same bytes, in capitals, but for one that opens a file, or asks for its attributes. It uses none of the relay's code to find them.
func fakeDaemon(t *testing.T, p peer) {
	defer p.c.Close()
	var b []byte
	var kick, call [queues]int
	var at [queues][3]uint64
	le := binary.LittleEndian
	serve := func(i int) {
		desc, used, avail := b[at[i][0]-sharedAt:], b[at[i][1]-sharedAt:], b[at[i][2]-sharedAt:]
		for seen := uint16(0); ; {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(kick[i]), Events: unix.POLLIN}}, -1); err != nil {
				continue
			}
			lower(kick[i])
			for ; seen != le.Uint16(avail[2:]); seen++ {
				head := le.Uint16(avail[4+2*(seen%ringSize):])
				var question []byte
				n := 0
				for d := readDescriptor(desc[16*head:]); ; d = readDescriptor(desc[16*d.next:]) {
					data := b[d.addr:][:d.len]
					if d.flags&2 == 0 {
						question = append(question, data...)
					} else {
						n += copy(data, fakeAnswer(question))
					}
					if d.flags&1 == 0 {
						break
					}
				}
				le.PutUint32(used[4+8*(seen%ringSize):], uint32(head))
				le.PutUint32(used[8+8*(seen%ringSize):], uint32(n))
				le.PutUint16(used[2:], seen+1)
			}
			raise(call[i])
		}
	}
	for {
		m, err := p.receive()
		if err != nil {
			return
		}
		switch m.request {
		case getFeatures:
			if err := p.send(m.request, flagReply, words(featureVersion1|featureProtocol|1<<29)); err != nil {
				t.Error(err)
			}
		case setMemTable:
			fd, err := m.file()
			if err == nil {
				b, err = unix.Mmap(fd, 0, int(m.number(2)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			}
			if err != nil {
				t.Error(err)
			}
		case setVringAddr:
			at[m.number(0)] = [3]uint64{m.number(1), m.number(2), m.number(3)}
		case setVringCall:
			call[m.number(0)], _ = m.file()
		case setVringKick:
			kick[m.number(0)], _ = m.file()
			go serve(int(m.number(0)))
		}
	}
}

func fakeAnswer(question []byte) []byte {
	if len(question) >= inHeader {
		switch question[4] {
		case opOpen:
			return make([]byte, len(question))
		case opGetattr:
			return attributesOf(uint64(question[16]), 10, 1000)
		}
	}
	return bytes.ToUpper(question)
}

// fakeQEMU is QEMU's end of a relay, with a guest.
type fakeQEMU struct {
	*guest
	peer
	kick, call int
	ended      chan error
}

func begin(t *testing.T) *fakeQEMU {
	t.Helper()
	q := &fakeQEMU{guest: newGuest(t), ended: make(chan error, 1)}
	a, b := pairOfSockets(t)
	c, d := pairOfSockets(t)
	theirs, err := newPeer(d)
	if err != nil {
		t.Fatal(err)
	}
	go fakeDaemon(t, theirs)
	r, err := New(b, c, q.guest)
	if err != nil {
		t.Fatal(err)
	}
	go func() { q.ended <- r.Serve() }()
	if q.peer, err = newPeer(a); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{a, b, c, d} {
		f.Close()
	}
	t.Cleanup(func() { q.c.Close() })
	const all = featureVersion1 | featureProtocol | featureIndirect
	if n, err := q.ask(getFeatures); n != all || err != nil {
		t.Fatalf("%#x, %v", n, err)
	}
	if n, err := q.ask(getQueueNum); n != queues || err != nil {
		t.Fatal(n, err)
	}
	for _, fd := range []*int{&q.kick, &q.call} {
		if *fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	q.do(setFeatures, words(all))
	q.do(setMemTable, words(1, guestAt, guestLen, hostAt, 0))
	q.do(setVringNum, pair(1, testRing))
	q.do(setVringBase, pair(1, 0))
	q.do(setVringAddr, words(1, descAt, usedAt, availAt, 0))
	q.do(setVringKick, words(1), q.kick)
	q.do(setVringCall, words(1), q.call)
	q.do(setVringEnable, pair(1, 1))
	return q
}

// do sends a request that wants to be answered, and waits for that.
func (q *fakeQEMU) do(request uint32, payload []byte, fds ...int) {
	q.t.Helper()
	if err := q.send(request, flagAck, payload, fds...); err != nil {
		q.t.Fatal(err)
	}
	if m, err := q.receive(); err != nil || m.number(0) != 0 {
		q.t.Fatal(request, err)
	}
}

// round has one request done, which is the guest's i-th, and returns the answer.
func (q *fakeQEMU) round(i int, question string) string {
	q.t.Helper()
	copy(q.b[dataAt-guestAt:], question)
	n := uint32(len(question))
	q.put(guestAt, 0, descriptor{dataAt, n - 1, flagNext, 1})
	q.put(guestAt, 1, descriptor{dataAt + uint64(n) - 1, 1, flagNext, 2})
	q.put(guestAt, 2, descriptor{dataAt + 0x20000, 2, flagNext | flagWrite, 3})
	q.put(guestAt, 3, descriptor{dataAt + 0x30000, n + 10, flagWrite, 0})
	q.offer(uint16(i+1), make([]uint16, testRing)...)
	raise(q.kick)
	fds := []unix.PollFd{{Fd: int32(q.call), Events: unix.POLLIN}}
	for {
		if k, err := unix.Poll(fds, 20000); k == 0 {
			q.t.Fatal("there is no answer")
		} else if err == nil {
			break
		}
	}
	lower(q.call)
	used := q.b[usedAt-hostAt:]
	if idx := binary.LittleEndian.Uint16(used[2:]); idx != uint16(i+1) {
		q.t.Fatalf("%d requests are used instead of %d", idx, i+1)
	}
	e := used[4+usedLen*(i%testRing):]
	if head, got := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]); head != 0 || got != n {
		q.t.Fatalf("head %d with %d bytes instead of %d", head, got, n)
	}
	return string(q.b[dataAt-guestAt+0x20000:][:2]) + string(q.b[dataAt-guestAt+0x30000:][:n-2])
}

func TestRelay(t *testing.T) {
	q := begin(t)
	for i := range 100 {
		question := strings.Repeat("word ", 1+i*37)
		if got := q.round(i, question); got != strings.ToUpper(question) {
			t.Fatalf("request %d: %.40q", i, got)
		}
	}
	// A queue that is stopped tells how far it came, and goes on from there.
	if err := q.send(getVringBase, 0, pair(1, 0)); err != nil {
		t.Fatal(err)
	}
	m, err := q.receive()
	if err != nil {
		t.Fatal(err)
	}
	if i, next := m.state(); i != 1 || next != 100 {
		t.Errorf("queue %d stands at %d", i, next)
	}
	q.do(setVringBase, pair(1, 100))
	if got := q.round(100, "again"); got != "AGAIN" {
		t.Errorf("%q", got)
	}
	// A file that is opened twice, and not changed, is kept; virtiofsd is asked once more for each, which the guest does not see.
	open := make([]byte, inHeader+8)
	open[4], open[16] = opOpen, 9
	for i, want := range []byte{0, keepCache} {
		if i > 0 {
			time.Sleep(taken)
		}
		if got := q.round(101+i, string(open)); got[openFlags] != want {
			t.Errorf("opened for time %d: the flags are %d, want %d", i+1, got[openFlags], want)
		}
	}
	q.c.Close()
	if err := <-q.ended; err == nil || !strings.Contains(err.Error(), "QEMU: ") {
		t.Error(err)
	}
}

// TestGuestBreaksRules: the relay ends, and says why.
func TestGuestBreaksRules(t *testing.T) {
	q := begin(t)
	q.put(guestAt, 0, descriptor{dataAt, 1, flagNext, 0})
	q.offer(1, 0)
	raise(q.kick)
	select {
	case err := <-q.ended:
		if err == nil || !strings.Contains(err.Error(), "queue 1: a request of more than the 8 descriptors that there are") {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the relay goes on")
	}
}

// TestQEMUBreaksRules: QEMU is believed no more than the guest that may have taken it over.
func TestQEMUBreaksRules(t *testing.T) {
	for name, c := range map[string]struct {
		request uint32
		payload []byte
		want    string
	}{
		"a queue that is not there": {setVringNum, pair(2, 8), "queue 2 of 2"},
		"a ring of no power of two": {setVringNum, pair(1, 9), "queue 1 of 9 entries"},
		"a huge ring":               {setVringNum, pair(1, 2048), "queue 1 of 2048 entries"},
		"an index of 17 bits":       {setVringBase, pair(1, 1<<16), "queue 1 starts at 65536"},
		"an address of the kernel":  {setVringAddr, words(1, 1<<63, 0, 0, 0), "queue 1 is at"},
		"a short request":           {setVringAddr, words(1), "request 9 with 8 bytes instead of 40"},
		"no descriptor":             {setVringKick, words(1), "0 descriptors instead of one"},
		"a table cut short":         {setMemTable, words(2, 0), "a table of 2 regions of memory with 8 bytes"},
		"what is not known":         {99, nil, "request 99 is not known"},
		"a large payload":           {setVringNum, make([]byte, maxPayload+1), "with 4097 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			q := begin(t)
			if err := q.send(c.request, 0, c.payload); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-q.ended:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v instead of %q", err, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the relay goes on")
			}
		})
	}
}
