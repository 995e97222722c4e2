package shim

import (
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim/wire"
)

// TestResumeReadsWhatSaveWrote: a container's row comes back whole, and its descriptors are not for what is executed later.
func TestResumeReadsWhatSaveWrote(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], 0); err != nil {
		t.Fatal(err)
	}
	defer closeAll(p[:])
	s := &server{listener: 9, fds: []int{5, 6}, reap: []string{"/bin/x", "reap", ""}, containers: map[string]*container{}}
	c := &container{id: "abc", bundle: "/b/box", exitPath: "/e", cgroupPath: "/brig-abc", durable: true, ownPIDs: true, started: true}
	c.startedAt = time.Unix(1700000000, 5).UTC()
	c.proc = &oci.Process{Pid: os.Getpid(), PidFD: -1}
	c.in, c.out, c.once, c.box = -1, [2]int{p[0], p[1]}, true, true
	c.log = openLog(runtime.LogSpec{Path: "/l", MaxSize: 1 << 40, MaxFiles: 5})
	c.log.line = [2][]byte{[]byte("half a li"), []byte("\xff")}
	s.containers[c.id] = c

	for _, log := range []bool{true, false} {
		if !log {
			c.log = nil
		}
		saved := wire.DecodeSaved(s.save())
		if saved.ListenerFD != 9 || !slices.Equal(saved.FDs, s.fds) || !slices.Equal(saved.Reap, s.reap) || len(saved.Containers) != 1 {
			t.Fatalf("%+v", saved)
		}
		next := &server{}
		got := next.resumeContainer(&saved.Containers[0])
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
