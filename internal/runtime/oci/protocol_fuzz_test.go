package oci

import (
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/base/record"
)

// say puts messages into one end of a new pair of sockets and returns the other, which then reads the end. Each message is a byte with how many descriptors come
// along (modulo 5), one with its length, and itself.
func say(t *testing.T, kind int, data []byte) int {
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	null := openNull(t)
	defer unix.Close(null)
	for len(data) >= 2 {
		count, length := int(data[0]%5), min(int(data[1]), len(data)-2)
		var fds []int
		for range count {
			fds = append(fds, null)
		}
		msg := data[2 : 2+length]
		data = data[2+length:]
		if length == 0 || sendFDs(pair[1], msg, fds) != nil { // nothing, or more than the socket holds
			break
		}
	}
	unix.Shutdown(pair[1], unix.SHUT_WR)
	unix.SetNonblock(pair[0], false)
	return pair[0]
}

// lowestFree is the number that the next descriptor gets. It rises when one is lost.
func lowestFree(t *testing.T) int {
	fd := openNull(t)
	unix.Close(fd)
	return fd
}

func openNull(t *testing.T) int {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// said is one message for say.
func said(fds int, msg ...byte) []byte { return append([]byte{byte(fds), byte(len(msg))}, msg...) }

func word(stage int32, errno syscall.Errno) []byte {
	return []byte{byte(stage), byte(stage >> 8), 0, 0, byte(errno), 0, 0, 0}
}

func together(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// FuzzChildWords: whatever a child says to its parent on the way, the parent comes to an end with an error or without, and keeps no descriptor.
func FuzzChildWords(f *testing.F) {
	f.Add(together(said(1, word(stageProcMade, 0)...), said(0, word(stageReady, 0)...), said(0, word(stageExec, unix.ENOENT)...)))
	f.Add(together(said(0, word(stageProc, unix.EPERM)...), said(3, 1)))
	f.Add(together(said(2, word(stageProcMade, 0)...)))
	f.Add(together(said(0, word(stageListener, 5)...), said(0, word(-1, 255)...)))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &Process{talk: say(t, unix.SOCK_SEQPACKET, data), name: "x", PidFD: -1}
		before := lowestFree(t)
		fds, err := p.procs(1)
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err == nil && len(fds) != 1 {
			t.Errorf("no error, and %d descriptors", len(fds))
		}
		_ = p.Ready()
		for {
			stage, errno, err := p.read()
			if err != nil || stage == 0 {
				break
			}
			if p.failure(stage, errno) == nil {
				t.Errorf("stage %d, errno %d is no error", stage, errno)
			}
		}
		if after := lowestFree(t); after != before {
			t.Errorf("descriptors were lost: %d, then %d", before, after)
		}
	})
}

// FuzzStageWords is the same for a child on its way into a user namespace, and for the stage that it becomes.
func FuzzStageWords(f *testing.F) {
	f.Add(together(said(0, stageUnshared), said(0, stageMapped)), byte(stageUnshared))
	f.Add(said(0, 'x', byte(unix.EPERM)), byte(stageUnshared))
	f.Add(said(0, 'x', byte(unix.EACCES)), byte(0))
	f.Add(together(said(0, withPid(msgHooks, 1<<30)...), said(2, withPid(msgReady, 1<<30)...)), byte(1))
	f.Add(said(3, withPid(msgReady, 1<<30)...), byte(1))
	f.Add(said(4, withPid(msgReady, 1<<30)...), byte(1))
	f.Add(said(0, append([]byte{msgError}, "NotFound\x00words"...)...), byte(1))
	f.Add(said(1, msgError), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, want byte) {
		_ = stageWord(say(t, unix.SOCK_STREAM, data), want, want&1 == 0)
		spec := &specs.Spec{Process: &specs.Process{Args: []string{"x"}}, Linux: &specs.Linux{}}
		o := &order{Spec: spec}
		control := say(t, unix.SOCK_SEQPACKET, data)
		before := lowestFree(t)
		p, err := o.build(&Request{Spec: spec}, control, nil, nil)
		if (err == nil) != (p != nil) {
			t.Errorf("a process %v and an error %v", p != nil, err)
		}
		if p != nil {
			p.hangUp()
			p.Close()
		}
		if after := lowestFree(t); after != before {
			t.Errorf("descriptors were lost: %d, then %d", before, after)
		}
	})
}

// FuzzOrder: what is sent to a stage as its order is one or is refused, and its descriptors are as many as it says.
func FuzzOrder(f *testing.F) {
	s := validSpec()
	for _, o := range []*order{{ID: "x", Spec: s}, {ID: "x", Spec: s, Gate: true, NetNS: true, RootFD: true, Tasks: 2, Namespaces: []int{0, 3}, Sources: []int{1}, Cgroup: "/x", Preserve: 1, LookUp: true}} {
		data, err := record.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, byte(8))
		f.Add(data, byte(0))
	}
	f.Add([]byte(`{"Tasks":-1,"Namespaces":[9999999999]}`), byte(0))
	f.Fuzz(func(t *testing.T, data []byte, count byte) {
		file, err := memFile("order", data)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		all := []int{int(file.Fd())}
		null := openNull(t)
		defer unix.Close(null)
		for range min(count, maxFDs-1) {
			all = append(all, null)
		}
		err = sendFDs(pair[1], []byte{msgOrder}, all)
		unix.Close(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		o, fds, err := receiveOrder(pair[0])
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err == nil {
			if len(fds) != len(all)-1 {
				t.Errorf("%d descriptors came of %d", len(fds), len(all)-1)
			}
			req := &Request{Spec: o.Spec}
			s := &staging{}
			if err := s.take(o, req, fds); err == nil && len(s.tasks) != o.Tasks {
				t.Errorf("%d tasks of %d", len(s.tasks), o.Tasks)
			}
		}
	})
}
