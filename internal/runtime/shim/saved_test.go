package shim

import (
	"bytes"
	"math"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime"
	"brig/internal/runtime/oci"
)

func TestSavedRoundTrip(t *testing.T) {
	ints := []int64{0, 1, -1, 63, 64, -65, math.MaxInt64, math.MinInt64}
	strs := []string{"", "a", "ä\x00\xff", string(bytes.Repeat([]byte("x"), 70000))}
	v := new(saved)
	for _, n := range ints {
		v.putInt(n)
	}
	for _, s := range strs {
		v.putString(s)
	}
	v.putBool(true)
	v.putBool(false)
	r := &saved{v.b}
	for _, n := range ints {
		if got := r.int(); int64(got) != n {
			t.Errorf("int %d became %d", n, got)
		}
	}
	for _, s := range strs {
		if got := r.string(); got != s {
			t.Errorf("string of %d bytes became %d", len(s), len(got))
		}
	}
	if !r.bool() || r.bool() || len(r.b) != 0 {
		t.Errorf("bools, or %d bytes left", len(r.b))
	}
	if r.int() != 0 || r.string() != "" || r.bool() {
		t.Error("the end of the row is not zero")
	}
}

func TestExitAndReplyRoundTrip(t *testing.T) {
	for _, e := range []api.Exit{
		{At: time.Unix(0, 0).UTC()},
		{Code: 137, OOMKilled: true, Error: "no\nroom", At: time.Unix(1700000000, 123456789).UTC()},
		{Code: -1, At: time.Unix(-5, 7).UTC()},
	} {
		if got := decodeExit(encodeExit(e)); !reflect.DeepEqual(got, e) {
			t.Errorf("%+v became %+v", e, got)
		}
	}
	for _, r := range []Reply{{}, {Pid: 1 << 22}, {Error: "x", Kind: api.NotFound}, {Error: "bare"}} {
		got := decodeReply(r.encode())
		if got != r {
			t.Errorf("%+v became %+v", r, got)
		}
		if err := got.err(); (err != nil) != (r.Error != "") || err != nil && (err.Error() != r.Error || r.Kind != "" && api.KindOf(err) != r.Kind) {
			t.Errorf("%+v: error %v", r, err)
		}
	}
}

// FuzzSaved: no row makes a reader fail or give more than it holds.
func FuzzSaved(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeExit(api.Exit{Code: 1, Error: "x"}))
	f.Add(Reply{Pid: 7, Error: "x", Kind: api.NotFound}.encode())
	f.Add(bytes.Repeat([]byte{0xff}, 12))                                                // a number that does not end
	f.Add(append([]byte{0}, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)) // a string of 2^63-1 bytes
	f.Add([]byte{0, 0x01})                                                               // a string of -1 bytes
	f.Fuzz(func(t *testing.T, b []byte) {
		if e := decodeExit(slices.Clone(b)); len(e.Error) > len(b) {
			t.Errorf("error of %d bytes out of %d", len(e.Error), len(b))
		}
		if r := decodeReply(slices.Clone(b)); len(r.Error)+len(r.Kind) > len(b) {
			t.Errorf("reply %+v out of %d bytes", r, len(b))
		}
		v := &saved{slices.Clone(b)}
		for range len(b) {
			before := len(v.b)
			s := v.string()
			if len(v.b)+len(s) > before {
				t.Fatalf("%d bytes left and %d read, of %d", len(v.b), len(s), before)
			}
		}
	})
}

// TestResumeReadsWhatSaveWrote: a container's row comes back whole, and its descriptors are not for what is executed later.
func TestResumeReadsWhatSaveWrote(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], 0); err != nil {
		t.Fatal(err)
	}
	defer closeAll(p[:])
	s := &server{listener: 9, fds: []int{5, 6}, reap: []string{"/bin/x", "reap", ""}, containers: map[string]*container{}}
	c := &container{id: "abc", bundle: "/b", exitPath: "/e", cgroupPath: "/brig-abc", durable: true, ownPIDs: true, started: true}
	c.startedAt = time.Unix(1700000000, 5).UTC()
	c.proc = &oci.Process{Pid: os.Getpid(), PidFD: -1}
	c.in, c.out, c.once = -1, [2]int{p[0], p[1]}, true
	c.log = openLog(runtime.LogSpec{Path: "/l", MaxSize: 1 << 40, MaxFiles: 5})
	c.log.line = [2][]byte{[]byte("half a li"), []byte("\xff")}
	s.containers[c.id] = c

	for _, log := range []bool{true, false} {
		if !log {
			c.log = nil
		}
		v := &saved{s.save()}
		if n := v.int(); n != 9 {
			t.Errorf("listener %d", n)
		}
		var fds []int
		for range v.int() {
			fds = append(fds, v.int())
		}
		var reap []string
		for range v.int() {
			reap = append(reap, v.string())
		}
		if !slices.Equal(fds, s.fds) || !slices.Equal(reap, s.reap) || v.int() != 1 {
			t.Fatalf("fds %v, reap %q", fds, reap)
		}
		next := &server{}
		got := next.resumeContainer(v)
		if len(v.b) != 0 {
			t.Errorf("%d bytes are left", len(v.b))
		}
		if got.s != next || got.ended == nil {
			t.Error("the container does not belong to its new server")
		}
		if !reflect.DeepEqual(got.log, c.log) {
			t.Errorf("log %+v, want %+v", got.log, c.log)
		}
		if !reflect.DeepEqual(got.proc, c.proc) {
			t.Errorf("process %+v", got.proc)
		}
		got.s, got.ended, got.log, got.proc = nil, nil, nil, nil
		want := *c
		want.log, want.proc = nil, nil
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("got %+v\nwant %+v", *got, want)
		}
		for _, fd := range p {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor %d is inherited: %#x, %v", fd, flags, err)
			}
		}
	}
}
