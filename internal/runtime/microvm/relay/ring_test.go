package relay

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Where the tests' guest has its memory, and in it its queue.
const (
	guestAt, hostAt  = 0x40000000, 0x7f0000000000
	guestLen         = 1 << 20
	descAt, availAt  = hostAt, hostAt + 0x1000
	usedAt, dataAt   = hostAt + 0x2000, guestAt + 0x8000
	testRing, tableA = 8, guestAt + 0x3000
)

// guest is the memory of a machine. What is beyond it is nobody's business.
type guest struct {
	t testing.TB
	b []byte
}

func newGuest(t testing.TB) *guest { return &guest{t, make([]byte, guestLen)} }

func (g *guest) at(off int64, n int) ([]byte, error) {
	off -= hostAt
	if off < 0 || off+int64(n) > int64(len(g.b)) {
		g.t.Errorf("%d bytes at %#x are touched", n, off+hostAt)
		return nil, io.ErrUnexpectedEOF
	}
	return g.b[off : off+int64(n)], nil
}

func (g *guest) ReadAt(b []byte, off int64) (int, error) {
	from, err := g.at(off, len(b))
	return copy(b, from), err
}

func (g *guest) WriteAt(b []byte, off int64) (int, error) {
	to, err := g.at(off, len(b))
	return copy(to, b), err
}

// put writes a descriptor into the table at an address of the guest's.
func (g *guest) put(table uint64, i int, d descriptor) {
	b := g.b[table-guestAt+uint64(descLen*i):]
	binary.LittleEndian.PutUint64(b, d.addr)
	binary.LittleEndian.PutUint32(b[8:], d.len)
	binary.LittleEndian.PutUint16(b[12:], d.flags)
	binary.LittleEndian.PutUint16(b[14:], d.next)
}

// offer makes chains available: idx is the ring's index after that.
func (g *guest) offer(idx uint16, heads ...uint16) {
	b := g.b[availAt-hostAt:]
	for i, h := range heads {
		binary.LittleEndian.PutUint16(b[4+2*i:], h)
	}
	binary.LittleEndian.PutUint16(b[2:], idx)
}

func testQueue() ring { return ring{size: testRing, desc: descAt, avail: availAt, usedAt: usedAt} }

func testRegions() *guestMemory {
	return &guestMemory{regions: []region{{guestAt, guestLen, hostAt}}}
}

func TestTake(t *testing.T) {
	g := newGuest(t)
	g.put(guestAt, 0, descriptor{dataAt, 40, flagNext, 1})
	g.put(guestAt, 1, descriptor{dataAt + 40, 16, flagNext, 5}) // touches, and stays by itself
	g.put(guestAt, 5, descriptor{dataAt + 0x1000, 0x1000, flagNext, 6})
	g.put(guestAt, 6, descriptor{dataAt + 0x2000, 0x1000, flagNext, 2}) // one with it
	g.put(guestAt, 2, descriptor{dataAt + 0x4000, 16, flagWrite | flagNext, 3})
	g.put(guestAt, 3, descriptor{dataAt + 0x4010, 16, flagWrite, 0})
	g.put(guestAt, 7, descriptor{tableA, 2 * descLen, flagTable, 0})
	g.put(tableA, 0, descriptor{dataAt, 40, flagNext, 1})
	g.put(tableA, 1, descriptor{dataAt + 0x1000, 80, flagWrite, 0})
	g.offer(2, 0, 7)
	r := testQueue()
	if n, err := r.available(g); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	var q request
	for _, want := range []string{
		"0 [{139637976760320 40} {139637976760360 16} {139637976764416 8192}] 8248 [{139637976776704 32}] 32",
		"7 [{139637976760320 40}] 40 [{139637976764416 80}] 80",
	} {
		if err := r.take(g, testRegions(), true, &q); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(q.head, q.out, q.outBytes, q.in, q.inBytes); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
}

// TestHostile: whatever a guest's queue says, the request is refused by an error that says why.
func TestHostile(t *testing.T) {
	chain := func(d ...descriptor) func(*guest) {
		return func(g *guest) {
			for i := range d {
				g.put(guestAt, i, d[i])
			}
			g.offer(1, 0)
		}
	}
	table := func(d ...descriptor) func(*guest) {
		return func(g *guest) {
			for i := range d {
				g.put(tableA, i, d[i])
			}
			chain(descriptor{tableA, uint32(descLen * len(d)), flagTable, 0})(g)
		}
	}
	for name, c := range map[string]struct {
		do   func(*guest)
		want string
	}{
		"more than the ring holds":      {func(g *guest) { g.offer(testRing + 1) }, "9 requests are available in a ring of 8"},
		"an index that went back":       {func(g *guest) { g.offer(0xffff) }, "65535 requests are available"},
		"a head beyond the table":       {func(g *guest) { g.offer(1, testRing) }, "descriptor 8 in a table of 8"},
		"a next beyond the table":       {chain(descriptor{dataAt, 1, flagNext, 8}), "descriptor 8 in a table of 8"},
		"a loop":                        {chain(descriptor{dataAt, 1, flagNext, 1}, descriptor{dataAt, 1, flagNext, 0}), "more than the 8 descriptors"},
		"a loop of itself":              {chain(descriptor{dataAt, 1, flagNext, 0}), "more than the 8 descriptors"},
		"before the memory":             {chain(descriptor{guestAt - 1, 2, 0, 0}), "are not in the machine's memory"},
		"across its end":                {chain(descriptor{guestAt + guestLen - 1, 2, 0, 0}), "are not in the machine's memory"},
		"behind its end":                {chain(descriptor{guestAt + guestLen, 1, 0, 0}), "are not in the machine's memory"},
		"an address that goes round":    {chain(descriptor{^uint64(0), 2, flagWrite, 0}), "are not in the machine's memory"},
		"an address of the host's":      {chain(descriptor{hostAt, 2, flagWrite, 0}), "are not in the machine's memory"},
		"a length of 4 GiB":             {chain(descriptor{dataAt, ^uint32(0), 0, 0}), "a request of more than"},
		"a sum that is too much":        {chain(descriptor{guestAt, 600 << 10, flagNext, 1}, descriptor{guestAt, 600 << 10, 0, 0}), "a request of more than"},
		"no bytes":                      {chain(descriptor{dataAt, 0, 0, 0}), "a descriptor of no bytes"},
		"a question behind the answer":  {chain(descriptor{dataAt, 1, flagWrite | flagNext, 1}, descriptor{dataAt, 1, 0, 0}), "a question behind its answer"},
		"flags of no meaning":           {chain(descriptor{dataAt, 1, 1 << 7, 0}), "a descriptor with flags 0x80"},
		"a table in a chain":            {chain(descriptor{dataAt, 1, flagNext, 1}, descriptor{tableA, descLen, flagTable, 0}), "a descriptor with flags 0x4"},
		"a table that is written":       {chain(descriptor{tableA, descLen, flagTable | flagWrite, 0}), "a table of descriptors of 16 bytes, with flags 0x6"},
		"a table with more behind it":   {chain(descriptor{tableA, descLen, flagTable | flagNext, 1}), "a table of descriptors"},
		"an empty table":                {chain(descriptor{tableA, 0, flagTable, 0}), "a table of descriptors of 0 bytes"},
		"a table of half a descriptor":  {chain(descriptor{tableA, descLen + 8, flagTable, 0}), "a table of descriptors of 24 bytes"},
		"a huge table":                  {chain(descriptor{tableA, descLen * (maxChain + 1), flagTable, 0}), "a table of descriptors of 16400 bytes"},
		"a table outside of the memory": {chain(descriptor{guestAt + guestLen - 8, descLen, flagTable, 0}), "are not in the machine's memory"},
		"a table in a table":            {table(descriptor{tableA, descLen, flagTable, 0}), "a descriptor with flags 0x4"},
		"a next beyond that table":      {table(descriptor{dataAt, 1, flagNext, 1}), "more than the 1 descriptors in its table"},
		"far beyond":                    {table(descriptor{dataAt, 1, flagNext, 9}, descriptor{dataAt, 1, 0, 0}), "descriptor 9 in a table of 2"},
		"a loop in a table":             {table(descriptor{dataAt, 1, flagNext, 1}, descriptor{dataAt, 1, flagNext, 0}), "more than the 2 descriptors in its table"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			c.do(g)
			r := testQueue()
			_, err := r.available(g)
			if err == nil {
				err = r.take(g, testRegions(), true, &request{})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v instead of %q", err, c.want)
			}
		})
	}
}

// TestIndirectNotAgreed refuses what was not negotiated.
func TestIndirectNotAgreed(t *testing.T) {
	g := newGuest(t)
	g.put(guestAt, 0, descriptor{tableA, descLen, flagTable, 0})
	g.put(tableA, 0, descriptor{dataAt, 1, 0, 0})
	g.offer(1, 0)
	r := testQueue()
	if err := r.take(g, testRegions(), false, &request{}); err == nil {
		t.Error("it is taken")
	}
}

func TestReadTable(t *testing.T) {
	table := func(n uint32, words ...uint64) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(n))
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	}
	g, err := readTable(table(2, 0, 0xa0000, hostAt, 0, 0xc0000, guestLen, hostAt+0xc0000, 0xc0000))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := g.find(0xc0010, 16); at != hostAt+0xc0010 || err != nil {
		t.Errorf("%#x, %v", at, err)
	}
	if _, err := g.find(0x9fff8, 16); err == nil {
		t.Error("into the hole between two regions")
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": table(1, 0, 1, hostAt), "nine": table(9, make([]uint64, 36)...), "many": table(1 << 31),
		"round": table(1, ^uint64(0), 2, hostAt, 0), "of the kernel": table(1, 0, 2, maxAddress, 0), "large": table(1, 0, 1<<63, hostAt, 0),
	} {
		if _, err := readTable(b); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// FuzzQueue has a guest write what it will into its queue, and virtiofsd, which obeys it, into its own.
func FuzzQueue(f *testing.F) {
	g := newGuest(f)
	g.put(guestAt, 0, descriptor{dataAt, 40, flagNext, 1})
	g.put(guestAt, 1, descriptor{dataAt + 0x1000, 80, flagWrite, 0})
	g.put(guestAt, 2, descriptor{tableA, 2 * descLen, flagTable, 0})
	f.Add(g.b[:testRing*descLen], uint16(2), []byte{0, 0, 2, 0}, []byte{1, 0, 0, 0, 0, 0, 0, 0, 80, 0, 0, 0})
	memory := make([]byte, queueLen) // much of it
	f.Fuzz(func(t *testing.T, table []byte, idx uint16, heads, used []byte) {
		g := newGuest(t)
		copy(g.b[:0x1000], table)
		copy(g.b[tableA-guestAt:0x4000], table)
		g.offer(idx)
		copy(g.b[availAt-hostAt+4:][:2*testRing], heads)
		w := &worker{ring: testQueue(), call: -1, mem: g, guest: *testRegions(), indirect: true, shadow: &shadow{fd: -1, kick: -1, call: -1, b: memory}}
		clear(memory[:ringsLen])
		for range 3 {
			if _, err := w.question(); err != nil {
				return
			}
			for i, q := range w.slot[:] {
				if w.shadow.held[i] && (q.outBytes > maxBytes || q.inBytes > maxBytes || q.outBytes == 0) {
					t.Fatalf("a request of %d and %d bytes", q.outBytes, q.inBytes)
				}
			}
			if len(used) >= 2 {
				copy(w.shadow.b[usedOff+2:], used[:2])
				copy(w.shadow.b[usedOff+4:ringsLen], used[2:])
			}
			if w.answer() != nil {
				return
			}
		}
	})
}
