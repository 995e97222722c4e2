package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/record"
)

// The journal of events lives until the next boot, as docker's lives as long as its daemon: STATE/events, a JSON object a line, written by whoever did what
// it tells with one write to its end. When it is long it becomes events.1, in place of the one before. It is a report, not a record: where it cannot be
// written nothing fails.
const (
	eventsName = "events"
	eventsMax  = 1 << 20 // bytes of each of the two files
	eventsPoll = 50 * time.Millisecond
)

// happened is an event of a container.
func happened(c *api.Container, action string, more ...string) api.Event {
	attributes := make(map[string]string, len(c.Spec.Labels)+2+len(more)/2)
	maps.Copy(attributes, c.Spec.Labels)
	attributes["image"], attributes["name"] = c.ImageName, c.Name
	for i := 0; i+1 < len(more); i += 2 {
		attributes[more[i]] = more[i+1]
	}
	return api.Event{Time: time.Now().UTC(), Action: action, ID: c.ID, Attributes: attributes}
}

// happenedTo is an event of an image or a volume.
func happenedTo(kind, id, name, action string) api.Event {
	attributes := map[string]string{"name": name}
	if kind == "volume" { // docker's have this alone: their name is their ID
		attributes = map[string]string{"driver": "local"}
	}
	return api.Event{Time: time.Now().UTC(), Type: kind, Action: action, ID: id, Attributes: attributes}
}

// noteTransfer tells of images that came or went. The first that comes may be what the state folder is made for.
func (e *Engine) noteTransfer(r *api.TransferRequest, rep *api.TransferReply) {
	var list []api.Event
	switch r.Op {
	case "pull", "load", "import", "save":
		for i := range rep.Images {
			img := &rep.Images[i]
			name := img.Name
			if name == "" {
				name = img.ID
			}
			list = append(list, happenedTo("image", img.ID, familiar(name), r.Op))
		}
	case "push":
		for _, name := range r.Refs {
			list = append(list, happenedTo("image", name, name, r.Op))
		}
	}
	if len(list) > 0 && e.makeState() == nil {
		e.note(list...)
	}
}

// note writes events into the journal, all at once.
func (e *Engine) note(events ...api.Event) {
	var lines []byte
	for i := range events {
		data, err := record.Marshal(events[i])
		if err != nil {
			return
		}
		lines = append(append(lines, data...), '\n')
	}
	path := filepath.Join(e.state, eventsName)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, lines); err != nil {
		return
	}
	var here, there unix.Stat_t
	if unix.Fstat(fd, &here) == nil && here.Size > eventsMax && unix.Stat(path, &there) == nil && here.Ino == there.Ino { // else another was quicker
		_ = unix.Rename(path, path+".1")
	}
}

// ended are the events of a container's end.
func ended(c *api.Container, exit *api.Exit) []api.Event {
	var list []api.Event
	if exit.OOMKilled {
		list = append(list, happened(c, "oom"))
	}
	return append(list, happened(c, "die", "exitCode", strconv.Itoa(exit.Code)))
}

// Events hands over what happened since o.Since, and what happens until o.Until, or until ctx ends.
func (e *Engine) Events(ctx context.Context, o api.EventOptions, emit func(api.Event) error) error {
	if o.Since.IsZero() {
		o.Since = time.Now()
	}
	choose := func(ev api.Event) error {
		if ev.Time.Before(o.Since) || !o.Until.IsZero() && ev.Time.After(o.Until) {
			return nil
		}
		return emit(ev)
	}
	path := filepath.Join(e.state, eventsName)
	if f, err := os.Open(path + ".1"); err == nil {
		_, err = readEvents(f, nil, choose)
		f.Close()
		if err != nil {
			return err
		}
	}
	var f *os.File
	defer func() { f.Close() }() // of a nil file that is an error, and no more
	var rest []byte
	for {
		last := !o.Until.IsZero() && time.Now().After(o.Until)
		if f == nil {
			f, _ = os.Open(path)
		}
		if f != nil {
			gone := rotated(f, path) // asked before it is read: what is written to it later is written before its successor is
			var err error
			if rest, err = readEvents(f, rest, choose); err != nil {
				return err
			}
			if gone {
				f.Close()
				f, rest = nil, nil
				continue
			}
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(eventsPoll):
		}
	}
}

// readEvents reads whole lines to the end of r; start is the unfinished line of the last call, and the new one is returned.
func readEvents(r io.Reader, start []byte, emit func(api.Event) error) ([]byte, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if len(start) > 0 {
			line, start = append(start, line...), nil
		}
		if errors.Is(err, io.EOF) {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
		var ev api.Event
		if json.Unmarshal(bytes.TrimSpace(line), &ev) != nil {
			continue
		}
		if err := emit(ev); err != nil {
			return nil, err
		}
	}
}
