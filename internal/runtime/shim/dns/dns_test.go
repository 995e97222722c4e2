package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// book is names as a test has them.
type book map[string][]netip.Addr

func (b book) Find(name []byte) ([]netip.Addr, bool) {
	addrs, there := b[strings.ToLower(string(name))]
	return addrs, there
}

func (b book) Whose(addr netip.Addr) (string, bool) {
	for name, addrs := range b {
		if slices.Contains(addrs, addr) {
			return name + ".net", true
		}
	}
	return "", false
}

func world() book {
	a := netip.MustParseAddr
	b := book{"web": {a("10.0.0.2"), a("fd00::2")}, "old": {a("10.0.0.3")}}
	for i := range 255 {
		b["many"] = append(b["many"], netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	return b
}

func ask(t testing.TB, name string, typ dnsmessage.Type, size uint16) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	b.StartQuestions()
	b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET})
	if size > 0 {
		b.StartAdditionals()
		b.OPTResource(dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Class: dnsmessage.Class(size)}, dnsmessage.OPTResource{})
	}
	msg, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// told is an answer as a test compares it.
func told(t testing.TB, msg []byte) string {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil {
		t.Fatalf("%x: %v", msg, err)
	}
	if m.ID != 7 || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || len(m.Questions) != 1 {
		t.Errorf("%+v", m.Header)
	}
	s := strings.TrimPrefix(m.RCode.String(), "RCode")
	if m.Truncated {
		s += " cut"
	}
	for _, r := range m.Answers {
		if r.Header.TTL != 0 {
			t.Errorf("%s may be kept for %d s", r.Header.Name, r.Header.TTL)
		}
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			s += " " + netip.AddrFrom4(body.A).String()
		case *dnsmessage.AAAAResource:
			s += " " + netip.AddrFrom16(body.AAAA).String()
		case *dnsmessage.PTRResource:
			s += " " + body.PTR.String()
		}
	}
	return s
}

func TestAnswer(t *testing.T) {
	const nibbles = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."
	for _, c := range []struct {
		name string
		typ  dnsmessage.Type
		want string
	}{
		{"web.", dnsmessage.TypeA, "Success 10.0.0.2"},
		{"WEB.", dnsmessage.TypeA, "Success 10.0.0.2"},
		{"web.", dnsmessage.TypeAAAA, "Success fd00::2"},
		{"web.", dnsmessage.TypeALL, "Success 10.0.0.2 fd00::2"},
		{"old.", dnsmessage.TypeA, "Success 10.0.0.3"},
		{"old.", dnsmessage.TypeAAAA, "Success"}, // it is there
		{"old.", dnsmessage.TypeMX, "Success"},
		{"old.", dnsmessage.Type(65), "Success"},
		{"2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, "Success web.net."},
		{"2.0.0.10.IN-ADDR.ARPA.", dnsmessage.TypeA, "Success"},
		{nibbles, dnsmessage.TypePTR, "Success web.net."},
		{"9.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{"0.0.10.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{"300.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{"x.ip6.arpa.", dnsmessage.TypePTR, ""},
		{"nobody.", dnsmessage.TypeA, ""},
		{".", dnsmessage.TypeNS, ""},
	} {
		fate, msg := (&Server{Names: world()}).Answer(ask(t, c.name, c.typ, 0), nil, false)
		switch {
		case c.want == "" && fate != Forward:
			t.Errorf("%s %s: %d %x, want it forwarded", c.name, c.typ, fate, msg)
		case c.want != "" && fate != Reply:
			t.Errorf("%s %s: fate %d", c.name, c.typ, fate)
		case c.want != "":
			if got := told(t, msg); got != c.want {
				t.Errorf("%s %s: %s, want %s", c.name, c.typ, got, c.want)
			}
		}
	}
}

// TestSizes: an answer is no longer than who asks takes, and says when it is not whole.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		size uint16
		tcp  bool
		most int
		all  bool
	}{{0, false, 512, false}, {100, false, 512, false}, {1232, false, 1232, false}, {4096, false, 4096, false}, {0, true, MaxTCP, true}} {
		fate, msg := (&Server{Names: world()}).Answer(ask(t, "many.", dnsmessage.TypeA, c.size), make([]byte, 0, 100), c.tcp)
		got := told(t, msg)
		if fate != Reply || len(msg) > c.most || strings.Contains(got, "cut") == c.all || strings.Count(got, " ") < 10 {
			t.Errorf("%+v: %d, %d bytes: %s", c, fate, len(msg), got)
		}
	}
}

// TestAllocatesNothing: thousands of look-ups a second leave a keeper's heap alone.
func TestAllocatesNothing(t *testing.T) {
	s, buf := &Server{Names: world()}, make([]byte, 0, 4096)
	for _, q := range [][]byte{ask(t, "web.", dnsmessage.TypeA, 0), ask(t, "web.", dnsmessage.TypeAAAA, 1232), ask(t, "many.", dnsmessage.TypeA, 4096)} {
		s.Names = one{}
		if n := testing.AllocsPerRun(100, func() { s.Answer(q, buf, false) }); n > 0 {
			t.Errorf("%v allocations for an answer", n)
		}
	}
}

// one has an address for every name.
type one struct{}

func (one) Find([]byte) ([]netip.Addr, bool) { return oneAddr[:], true }
func (one) Whose(netip.Addr) (string, bool)  { return "", false }

var oneAddr = [1]netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})}

func TestNoQueries(t *testing.T) {
	good := ask(t, "web.", dnsmessage.TypeA, 0)
	change := func(at int, v byte) []byte {
		msg := slices.Clone(good)
		msg[at] = v
		return msg
	}
	for _, c := range []struct {
		what string
		msg  []byte
		fate Fate
		code Code
	}{
		{"nothing", nil, Drop, 0},
		{"half a header", good[:11], Drop, 0},
		{"an answer", change(2, 0x80), Drop, 0},
		{"a notification", change(2, 0x20), Reply, NotImplemented},
		{"no question", change(5, 0), Reply, FormatError},
		{"two questions", change(5, 2), Reply, FormatError},
		{"a header alone", good[:12], Reply, FormatError},
		{"a label that does not end", change(12, 60), Reply, FormatError},
		{"a pointer to itself", append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), Reply, FormatError},
		{"another class", change(len(good)-1, 3), Forward, 0},
	} {
		fate, msg := (&Server{Names: world()}).Answer(c.msg, nil, false)
		if fate != c.fate {
			t.Errorf("%s: fate %d, want %d", c.what, fate, c.fate)
		}
		if fate == Reply && (len(msg) < 12 || CodeOf(msg) != c.code || msg[2]&0x80 == 0) {
			t.Errorf("%s: %x", c.what, msg)
		}
	}
}

func TestRefuseAndSame(t *testing.T) {
	q := ask(t, "Nobody.example.", dnsmessage.TypeA, 1232)
	no := Refuse(q, nil, ServerFailure)
	if got := told(t, no); got != "ServerFailure" {
		t.Error(got)
	}
	if !Same(q, no) || Same(q, q) || Same(q, no[:20]) || Same(q, Refuse(ask(t, "nobody.exampla.", dnsmessage.TypeA, 0), nil, 0)) {
		t.Error("what answers what")
	}
	if !Same(q, Refuse(ask(t, "nobody.EXAMPLE.", dnsmessage.TypeA, 0), nil, 0)) {
		t.Error("a server may write a name its own way")
	}
}

func TestServers(t *testing.T) {
	got := Servers("# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1 # the first\nnameserver fe80::1%eth0\nnameserver\nnameserver ::1\nnameserver 192.0.2.4\n")
	if want := "[192.0.2.1 fe80::1%eth0 ::1]"; fmt.Sprint(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := Servers(""); fmt.Sprint(got) != "[127.0.0.1]" {
		t.Error(got)
	}
}

// FuzzAnswer: whatever comes in, what goes out is a message that can be read, with the number of what came in, and is no longer than asked for.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.", "many.", "nobody.example.", "2.0.0.10.in-addr.arpa."} {
		f.Add(ask(f, name, dnsmessage.TypeALL, 1232), true)
	}
	names := world()
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		fate, out := (&Server{Names: names}).Answer(msg, nil, tcp)
		if fate == Forward {
			out = Refuse(msg, nil, ServerFailure)
		}
		if fate == Drop {
			return
		}
		var p dnsmessage.Parser
		h, err := p.Start(out)
		if err != nil || !h.Response || out[0] != msg[0] || out[1] != msg[1] || !tcp && len(out) > max(mostUDP, len(msg)) {
			t.Fatalf("%x: %x, %v", msg, out, err)
		}
		var q dnsmessage.Parser
		q.Start(msg)
		if _, err := q.Question(); err != nil { // a dot in a label, which is a good name, is more than that package takes
			return
		}
		if _, err := p.AllQuestions(); err != nil {
			t.Fatalf("%x: %x: %v", msg, out, err)
		}
		if _, err := p.AllAnswers(); err != nil {
			t.Fatalf("%x: %x: %v", msg, out, err)
		}
		Same(msg, out)
	})
}
