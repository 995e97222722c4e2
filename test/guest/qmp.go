package guest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
)

// monitor speaks QEMU's machine protocol (QMP): a JSON object a line, a reply a command, events between them.
type monitor struct {
	w io.Writer
	r *bufio.Reader
}

// newMonitor waits for the greeting and leaves negotiation.
func newMonitor(rw io.ReadWriter) (*monitor, error) {
	m := &monitor{w: rw, r: bufio.NewReader(rw)}
	if _, err := m.r.ReadBytes('\n'); err != nil {
		return nil, fmt.Errorf("QEMU's greeting: %w", err)
	}
	return m, m.do("qmp_capabilities", nil, nil)
}

// do runs a command; reply, unless nil, receives what it returns.
func (m *monitor) do(command string, args map[string]any, reply any) error {
	req := map[string]any{"execute": command}
	if args != nil {
		req["arguments"] = args
	}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if _, err := m.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	for {
		line, err := m.r.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("QEMU %s: %w", command, err)
		}
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return fmt.Errorf("QEMU %s: %w", command, err)
		}
		switch {
		case answer.Error != nil:
			return fmt.Errorf("QEMU %s: %s", command, answer.Error.Desc)
		case answer.Return != nil && reply != nil:
			return json.Unmarshal(answer.Return, reply)
		case answer.Return != nil:
			return nil
		}
	}
}

// ignoreShared leaves memory that lives in a shared file there, instead of passing it through the stream.
func (m *monitor) ignoreShared() error {
	ability := map[string]any{"capability": "x-ignore-shared", "state": true}
	return m.do("migrate-set-capabilities", map[string]any{"capabilities": []any{ability}}, nil)
}

// load takes up a saved state from QEMU's descriptor stateFd; the machine runs on by itself.
func (m *monitor) load() error {
	if err := m.ignoreShared(); err != nil {
		return err
	}
	return m.do("migrate-incoming", map[string]any{"uri": "fd:" + strconv.Itoa(stateFd)}, nil)
}

// save writes the state of the machine, without its memory, to stateFile in the folder of QEMU. The machine does not run on afterwards, and the files that are
// its memory and its disk are complete when its process has ended.
func (m *monitor) save(deadline time.Duration) error {
	if err := m.ignoreShared(); err != nil {
		return err
	}
	if err := m.do("migrate", map[string]any{"uri": "exec:cat > " + stateFile}, nil); err != nil {
		return err
	}
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var got struct {
			Status string
			Reason string `json:"error-desc"`
		}
		if err := m.do("query-migrate", nil, &got); err != nil {
			return err
		}
		switch got.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU saves the machine: %s %s", got.Status, got.Reason)
		}
	}
	return fmt.Errorf("QEMU has not saved the machine after %s", deadline)
}
