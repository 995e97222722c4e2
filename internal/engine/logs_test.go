package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
)

// logged makes an engine with a container "logged" whose log has these files, oldest first, a word a record; minutes count from epoch.
func logged(t *testing.T, files ...string) (*Engine, string) {
	t.Helper()
	e := New(t.TempDir(), t.TempDir(), "test")
	c := api.Container{ID: strings.Repeat("ab", 32), Name: "logged", Created: time.Now()}
	if err := e.meta.CreateContainer(c, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(e.meta.Dir(c.ID), "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "json.log")
	minute := 0
	for i, text := range files {
		var b []byte
		for _, w := range strings.Fields(text) {
			if w == "TORN" {
				b = append(b, "{\"log\":\"to\n"...)
				continue
			}
			line, _ := json.Marshal(logRecord{w + "\n", "stdout", time.Unix(int64(minute)*60, 0).UTC()})
			b = append(append(b, line...), '\n')
			minute++
		}
		name := path
		if n := len(files) - 1 - i; n > 0 {
			name = fmt.Sprintf("%s.%d", path, n)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return e, path
}

func TestLogsSelect(t *testing.T) {
	at := func(m int) time.Time { return time.Unix(int64(m)*60, 0) }
	for name, tc := range map[string]struct {
		files []string
		o     api.LogOptions
		want  string
	}{
		"all":              {[]string{"a b", "c", "d e"}, api.LogOptions{Tail: -1}, "a b c d e"},
		"none yet":         {nil, api.LogOptions{Tail: -1}, ""},
		"tail":             {[]string{"a b c"}, api.LogOptions{Tail: 2}, "b c"},
		"tail 0":           {[]string{"a b c"}, api.LogOptions{Tail: 0}, ""},
		"tail over files":  {[]string{"a b", "c", "d"}, api.LogOptions{Tail: 3}, "b c d"},
		"tail over all":    {[]string{"a", "b"}, api.LogOptions{Tail: 9}, "a b"},
		"since":            {[]string{"a b", "c d"}, api.LogOptions{Tail: -1, Since: at(1)}, "b c d"},
		"until":            {[]string{"a b", "c d"}, api.LogOptions{Tail: -1, Until: at(2)}, "a b c"},
		"since until tail": {[]string{"a b c d"}, api.LogOptions{Tail: 3, Since: at(2), Until: at(2)}, "c"},
		"torn":             {[]string{"a TORN b"}, api.LogOptions{Tail: -1}, "a b"},
		"follow an end":    {[]string{"a", "b"}, api.LogOptions{Tail: -1, Follow: true}, "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := logged(t, tc.files...)
			var got []string
			err := e.Logs(t.Context(), "logged", tc.o, func(l api.LogEntry) error {
				got = append(got, strings.TrimSuffix(string(l.Line), "\n"))
				return nil
			})
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("%v, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestLogsErrors(t *testing.T) {
	e, _ := logged(t, "a b", "c")
	stop, n := errors.New("stop"), 0
	for _, tail := range []int{-1, 2} {
		n = 0
		if err := e.Logs(t.Context(), "logged", api.LogOptions{Tail: tail}, func(api.LogEntry) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
			t.Errorf("tail %d: %v after %d", tail, err, n)
		}
	}
	if err := e.Logs(t.Context(), "other", api.LogOptions{}, nil); api.KindOf(err) != api.NotFound {
		t.Error(err)
	}
}

// TestReadRecordsInPieces: a record that is half written is taken when its rest is there.
func TestReadRecordsInPieces(t *testing.T) {
	_, path := logged(t, "a b")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(data) + 1 {
		var got string
		emit := func(r logRecord) error { got += r.Log; return nil }
		rest, err := readRecords(strings.NewReader(string(data[:cut])), nil, parseJSONRecord, emit)
		if err != nil {
			t.Fatal(err)
		}
		if rest, err = readRecords(strings.NewReader(string(data[cut:])), rest, parseJSONRecord, emit); err != nil || len(rest) != 0 || got != "a\nb\n" {
			t.Fatalf("cut at %d: %q, rest %q, %v", cut, got, rest, err)
		}
	}
}

func TestRotated(t *testing.T) {
	_, path := logged(t, "a")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if rotated(f, path) {
		t.Error("before")
	}
	if err := os.Rename(path, path+".1"); err != nil || rotated(f, path) {
		t.Errorf("without a new file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil || !rotated(f, path) {
		t.Errorf("after: %v", err)
	}
}
