package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"brig/api"
)

// journalEntry is what a container's keeper has sent to journald, and when that took it. See journalctl(1), --output=json.
type journalEntry struct {
	Cursor   string          `json:"__CURSOR"`
	Time     string          `json:"__REALTIME_TIMESTAMP"` // microseconds
	Priority string          `json:"PRIORITY"`
	Partial  string          `json:"CONTAINER_PARTIAL_MESSAGE"`
	Message  json.RawMessage `json:"MESSAGE"` // a string or, where it is not UTF-8, a list of bytes
}

// journal reads the log of a container whose driver is journald: through journalctl, since the journal's files are for systemd's own programs to read.
func (e *Engine) journal(ctx context.Context, c *api.Container, o api.LogOptions, emit func(api.LogEntry) error) error {
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return api.Errorf(api.Unsupported, "the log of container %s is in the journal, which journalctl reads, and that is not installed: install it (Debian's package systemd)", c.Name)
	}
	r := journalReader{program: program, c: c, o: o, emit: emit}
	var lines []string // how many; nil: all
	if o.Tail >= 0 {
		lines = []string{"--lines=" + strconv.Itoa(o.Tail)}
	}
	runs := func() bool { return e.isRunning(c.ID) || e.occupied(c.ID) || e.waitedFor(c.ID) }
	if o.Follow && runs() {
		if err := r.follow(ctx, runs, lines); err != nil || ctx.Err() != nil {
			return err
		}
		if r.cursor != "" {
			lines = []string{"--after-cursor=" + r.cursor}
		}
	}
	if o.Follow { // journald may still have in its hands what came before the end
		_ = exec.CommandContext(ctx, program, "--sync").Run() // without the right to that, what is there is read
	}
	return r.read(ctx, lines...)
}

// follow hands on what comes as long as the container runs.
func (r *journalReader) follow(ctx context.Context, runs func() bool, lines []string) error {
	following, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		for runs() {
			select {
			case <-following.Done():
				return
			case <-time.After(logPoll):
			}
		}
	}()
	if lines == nil {
		lines = []string{"--no-tail"}
	}
	err := r.read(following, append(lines, "--follow")...)
	if r.failed == nil && following.Err() != nil { // it was ended because the container has
		return nil
	}
	return err
}

// journalReader hands on what journalctl finds of a container.
type journalReader struct {
	program string
	c       *api.Container
	o       api.LogOptions
	emit    func(api.LogEntry) error
	cursor  string // of the last entry
	failed  error  // what emit said
}

// read runs journalctl to its end.
func (r *journalReader) read(ctx context.Context, args ...string) error {
	args = append([]string{"--output=json", "--all", "--quiet", "--no-pager"}, args...)
	if since := r.o.Since; !since.IsZero() {
		args = append(args, "--since="+journalTime(since))
	}
	if until := r.o.Until; !until.IsZero() && !r.o.Follow {
		args = append(args, "--until="+journalTime(until.Add(time.Microsecond)))
	}
	cmd := exec.CommandContext(ctx, r.program, append(args, "CONTAINER_ID_FULL="+r.c.ID)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("container %s: its log: %w", r.c.Name, err)
	}
	err = r.entries(out)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("container %s: its log: journalctl: %w: %s", r.c.Name, werr, strings.TrimSpace(said.String()))
	}
	return err
}

// journalTime is a moment as journalctl takes it: systemd.time(7).
func journalTime(t time.Time) string {
	return fmt.Sprintf("@%d.%06d", t.Unix(), t.Nanosecond()/1000)
}

// entries hands on what comes until there is no more.
func (r *journalReader) entries(in io.Reader) error {
	for dec := json.NewDecoder(in); ; {
		var j journalEntry
		if err := dec.Decode(&j); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // also where it was ended in the middle of one
				return nil
			}
			return fmt.Errorf("container %s: its log: journalctl: %w", r.c.Name, err)
		}
		r.cursor = j.Cursor
		entry := api.LogEntry{Stream: "stdout", Line: j.line()}
		if us, err := strconv.ParseInt(j.Time, 10, 64); err == nil {
			entry.Time = time.UnixMicro(us).UTC()
		}
		if j.Priority == "3" {
			entry.Stream = "stderr"
		}
		if !r.o.Since.IsZero() && entry.Time.Before(r.o.Since) || !r.o.Until.IsZero() && entry.Time.After(r.o.Until) {
			continue
		}
		if r.failed = r.emit(entry); r.failed != nil {
			return r.failed
		}
	}
}

// line is what the container said, with its newline if it wrote one.
func (j *journalEntry) line() []byte {
	var text string
	var line []byte
	if json.Unmarshal(j.Message, &text) == nil {
		line = []byte(text)
	} else {
		var numbers []int
		_ = json.Unmarshal(j.Message, &numbers) // else it is nothing that a keeper sends
		for _, n := range numbers {
			line = append(line, byte(n))
		}
	}
	if j.Partial == "true" {
		return line
	}
	return append(line, '\n')
}
