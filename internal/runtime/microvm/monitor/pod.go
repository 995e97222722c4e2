package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/config"
	"brig/internal/runtime/microvm/wire"
)

// The boxes of a pod's members have this program, too, and no machine: it asks the monitor of the pod's infra container, whose sockets it is shown, for a container in that one's machine, and
// stands for it as the process of an exec does. The member's tree appears in the infra's box before this program is executed.

// infraSocket is execSocket of the infra's box in that of a member.
const infraSocket = boxed.InfraDir + "/exec.sock"

// member is this box's place in a pod whose machine is another box's; nil: the machine is its own.
func member() (*boxed.Pod, error) {
	if _, err := os.Stat(boxed.InfraDir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	user, err := os.ReadFile(boxed.ConfigPath)
	if err != nil {
		return nil, err
	}
	spec, err := config.Decode(user)
	if err != nil {
		return nil, err
	}
	return boxed.PodOf(spec)
}

// where says at which socket a further process is asked for, and with what words.
func where(exec []byte) (socket string, body []byte, err error) {
	p, err := member()
	if p == nil || err != nil {
		return execSocket, exec, err
	}
	body, err = json.Marshal(wire.Member{Member: p.Member, Exec: exec})
	return infraSocket, body, err
}

// runMember is the first process of a member's box.
func runMember(p *boxed.Pod) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	c, err := askMember(p, signals)
	code := exitFailed
	if err == nil {
		var f wire.Frame
		f, err = wire.Read(c, wire.MaxBody, nil)
		if err == nil && f.Kind == wire.Started {
			tell(boxed.Begun{})
			return untilEnd(c)
		}
		code, err = answer(&f, err)
	}
	if err == nil {
		err = errors.New("the monitor of the pod's virtual machine gave no answer")
	}
	if code == exitLost {
		code = exitFailed
	}
	tell(boxed.Begun{Code: uint32(code), Why: err.Error()})
	return code, nil
}

// askMember asks for the member's container.
func askMember(p *boxed.Pod, signals <-chan os.Signal) (*net.UnixConn, error) {
	user, err := os.ReadFile(boxed.ConfigPath)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(wire.Member{Member: p.Member, Config: user})
	if err != nil {
		return nil, err
	}
	return ask(infraSocket, body, signals)
}

// untilEnd waits for the end of a member that executes.
func untilEnd(c *net.UnixConn) (int, error) {
	f, err := wire.Read(c, wire.MaxBody, nil)
	if err != nil {
		_ = os.WriteFile(boxed.ToldPath, []byte(boxed.ToldLost), 0o600) // it is but the reason
		return exitLost, errors.New("the virtual machine of the pod has ended")
	}
	code, err := answer(&f, nil)
	if f.Kind == wire.Exit && err == nil {
		if why := tells(f.Body[1], f.Body[2]); why != "" {
			_ = os.WriteFile(boxed.ToldPath, []byte(why), 0o600) // it is but the reason
		}
	}
	return code, err
}

// formerLimit is how long a member that is started again waits for its former run to end in the machine.
const formerLimit = 10 * time.Second

// memberOf notes a stream as a member's, if what is asked for is to be a member's first process, and returns what is closed when that executes; nil: it is something else. One container has
// one run at a time: where a box was killed, its run is a moment longer in the machine.
func (s *session) memberOf(t *stream, body []byte) (began <-chan struct{}, err error) {
	var m wire.Member
	if json.Unmarshal(body, &m) != nil || len(m.Config) == 0 {
		return nil, nil //nolint:nilerr // the agent says what is wrong with it
	}
	t.member, _, _ = strings.Cut(m.Member, ".")
	s.mu.Lock()
	former := s.members[t.member]
	s.members[t.member] = t
	s.mu.Unlock()
	if former == nil {
		return t.began, nil
	}
	select {
	case <-former.over:
	case <-s.ended:
	case <-time.After(formerLimit):
		s.mu.Lock()
		if s.members[t.member] == t {
			s.members[t.member] = former // which the next one waits for
		}
		s.mu.Unlock()
		return nil, fmt.Errorf("the container's former run has not ended in the virtual machine after %s", formerLimit)
	}
	return t.began, nil
}

// endMember forgets a stream that was a member's.
func (s *session) endMember(t *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members[t.member] == t {
		delete(s.members, t.member)
	}
}

// give gives a stream up on which nothing was begun.
func (t *stream) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.more.Broadcast()
}
