// Package qmp speaks the QEMU Machine Protocol (docs/interop/qmp-spec.txt of QEMU): a JSON object a line each way, and one question at a time.
//
// QEMU runs a hostile machine, so what it answers is taken as an attacker's: a line has at most maxLine bytes, so many events may come before an answer, and all of it
// has a deadline.
package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLine   = 256 << 10 // bytes
	maxEvents = 1000      // before one answer
)

// Client is a connection to one QEMU. It is one goroutine's at a time.
type Client struct {
	c *net.UnixConn
	r *bufio.Reader
}

// Dial takes up a connection: QEMU greets, and is told that there is nothing to negotiate. All that is said until the deadline has to be said by then.
func Dial(c *net.UnixConn, deadline time.Time) (*Client, error) {
	q := &Client{c: c, r: bufio.NewReaderSize(c, maxLine)}
	if err := q.Until(deadline); err != nil {
		return nil, err
	}
	var hello struct {
		QMP *struct{} `json:"QMP"`
	}
	if err := q.read(&hello); err != nil {
		return nil, fmt.Errorf("QMP: greeting: %w", err)
	}
	if hello.QMP == nil {
		return nil, errors.New("QMP: what answers is not QEMU")
	}
	return q, q.Do("qmp_capabilities", nil, nil)
}

// Begin sends all of a command but its end, and returns when QEMU has read it. A QEMU that is saved then has read it in every process that goes on from there: Resume. It reads byte by
// byte, which takes time.
func (q *Client) Begin(command string) error {
	b, err := json.Marshal(map[string]any{"execute": command})
	if err != nil {
		return err
	}
	if _, err := q.c.Write(b[:len(b)-1]); err != nil {
		return fmt.Errorf("QMP: %s: not sent: %w", command, err)
	}
	raw, err := q.c.SyscallConn()
	if err != nil {
		return err
	}
	for range 1000 {
		left := 0
		var e error
		if err := raw.Control(func(fd uintptr) { left, e = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return err
		}
		if e != nil || left == 0 {
			return os.NewSyscallError("SIOCOUTQ", e)
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("QMP: %s: it is not read", command)
}

// Resume takes up a connection to a QEMU that was saved after Begin, ends that command, and reads that it was executed.
func Resume(c *net.UnixConn, deadline time.Time) (*Client, error) {
	q := &Client{c: c, r: bufio.NewReaderSize(c, maxLine)}
	if err := q.Until(deadline); err != nil {
		return nil, err
	}
	if _, err := q.c.Write([]byte("}")); err != nil {
		return nil, fmt.Errorf("QMP: not sent: %w", err)
	}
	return q, q.answer("a command that was begun", nil)
}

// Until sets another deadline.
func (q *Client) Until(deadline time.Time) error { return q.c.SetDeadline(deadline) }

// Close ends the connection, and not QEMU.
func (q *Client) Close() error { return q.c.Close() }

// message is anything that QEMU says.
type message struct {
	Event  string          `json:"event"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// Error is QEMU's own.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return printable(e.Desc) }

// Do has a command executed and reads what it returns into result, where that is not nil. The descriptors, if any, are passed along with it (getfd).
func (q *Client) Do(command string, args, result any, fds ...int) error {
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if n, _, err := q.c.WriteMsgUnix(append(b, '\n'), rights, nil); err != nil || n <= len(b) {
		return fmt.Errorf("QMP: %s: not sent: %w", command, err)
	}
	return q.answer(command, result)
}

// answer reads what a command returns.
func (q *Client) answer(command string, result any) error {
	for range maxEvents {
		var m message
		if err := q.read(&m); err != nil {
			return fmt.Errorf("QMP: %s: %w", command, err)
		}
		switch {
		case m.Event != "":
		case m.Error != nil:
			return fmt.Errorf("QMP: %s: %w", command, m.Error)
		case m.Return == nil:
			return fmt.Errorf("QMP: %s: neither an answer nor an error", command)
		case result != nil:
			if err := json.Unmarshal(m.Return, result); err != nil {
				return fmt.Errorf("QMP: %s: the answer: %w", command, err)
			}
			return nil
		default:
			return nil
		}
	}
	return fmt.Errorf("QMP: %s: %d events and no answer", command, maxEvents)
}

// read takes one line.
func (q *Client) read(into any) error {
	line, err := q.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return fmt.Errorf("a line of more than %d bytes", maxLine)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

// printable is text of QEMU's that may stand in a message.
func printable(s string) string {
	const most = 1 << 10 // bytes
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s[:min(len(s), most)])
}
