package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"brig/api"
)

// logRecord is a line of docker's json-file format.
type logRecord struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// logPoll is how often a followed log is looked at.
const logPoll = 50 * time.Millisecond

// Logs reads a container's log, rotated files too, oldest line first.
func (e *Engine) Logs(ctx context.Context, name string, o api.LogOptions, emit func(api.LogEntry) error) error {
	c, err := e.meta.Container(name)
	if err != nil {
		return err
	}
	spec, err := logSpec(e.meta.Dir(c.ID), c.ID, c.Name, c.Spec.Log)
	if err != nil {
		return err
	}
	if spec.Path == "" || spec.Driver == api.LogSyslog {
		return api.Errorf(api.Unsupported, "configured logging driver %q of container %s does not support reading", c.Spec.Log.Driver, c.Name)
	}
	if spec.Driver == api.LogJournald {
		return e.journal(ctx, &c, o, emit)
	}
	parse := parseJSONRecord
	if spec.Driver == api.LogK8sFile {
		parse = parseK8sRecord
	}
	path := spec.Path
	choose := func(r logRecord) error {
		if !o.Since.IsZero() && r.Time.Before(o.Since) || !o.Until.IsZero() && r.Time.After(o.Until) {
			return nil
		}
		return emit(api.LogEntry{Time: r.Time, Stream: r.Stream, Line: []byte(r.Log)})
	}
	f, rest, err := e.pastLogs(path, spec.MaxFiles, o.Tail, parse, choose)
	if err != nil {
		return err
	}
	if f == nil && !o.Follow {
		return nil
	}
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	if !o.Follow {
		return nil
	}
	return e.follow(ctx, c.ID, path, &f, rest, parse, choose)
}

// pastLogs emits what is there already, the last tail lines or all, and returns the current file at its end, with an unfinished last line.
func (e *Engine) pastLogs(path string, files, tail int, parse parser, emit func(logRecord) error) (*os.File, []byte, error) {
	var kept []logRecord
	take := emit
	if tail >= 0 {
		take = func(r logRecord) error {
			kept = append(kept, r)
			if len(kept) > tail {
				kept = kept[1:]
			}
			return nil
		}
	}
	for i := files - 1; i > 0; i-- {
		f, err := os.Open(fmt.Sprintf("%s.%d", path, i))
		if err != nil {
			continue
		}
		_, err = readRecords(f, nil, parse, take)
		f.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	var rest []byte
	if f != nil {
		rest, err = readRecords(f, nil, parse, take)
	}
	for i := 0; err == nil && i < len(kept); i++ {
		err = emit(kept[i])
	}
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, rest, err
}

// follow emits what comes until the container has ended.
func (e *Engine) follow(ctx context.Context, id, path string, f **os.File, rest []byte, parse parser, emit func(logRecord) error) error {
	for {
		runs := e.isRunning(id) || e.occupied(id) || e.waitedFor(id)
		if *f == nil {
			*f, _ = os.Open(path)
		}
		if *f != nil {
			var err error
			if rest, err = readRecords(*f, rest, parse, emit); err != nil {
				return err
			}
			if rotated(*f, path) {
				(*f).Close()
				*f, rest = nil, nil
				continue
			}
		}
		if !runs {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logPoll):
		}
	}
}

func rotated(f *os.File, path string) bool {
	here, err1 := f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && !os.SameFile(here, there)
}

// readRecords reads whole lines to the end of r; start is the unfinished line of the last call, and the new one is returned. A line that is not
// a record was torn by a full disk: it is passed over.
func readRecords(r io.Reader, start []byte, parse parser, emit func(logRecord) error) ([]byte, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if len(start) > 0 {
			line = append(start, line...)
			start = nil
		}
		if err == io.EOF {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
		rec, ok := parse(bytes.TrimSuffix(line, []byte("\n")))
		if !ok {
			continue
		}
		if err := emit(rec); err != nil {
			return nil, err
		}
	}
}

// parser reads one line of a log.
type parser func(line []byte) (logRecord, bool)

func parseJSONRecord(line []byte) (r logRecord, ok bool) {
	err := json.Unmarshal(line, &r)
	return r, err == nil
}

// parseK8sRecord reads TIME STREAM F|P TEXT. A part of a line has no newline of its own.
func parseK8sRecord(line []byte) (r logRecord, ok bool) {
	at, rest, _ := bytes.Cut(line, []byte(" "))
	stream, rest, _ := bytes.Cut(rest, []byte(" "))
	kind, text, found := bytes.Cut(rest, []byte(" "))
	t, err := time.Parse(time.RFC3339Nano, string(at))
	if !found || err != nil {
		return r, false
	}
	r = logRecord{Log: string(text), Stream: string(stream), Time: t}
	if string(kind) == "F" {
		r.Log += "\n"
	}
	return r, true
}
