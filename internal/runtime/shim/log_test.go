package shim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/runtime"
)

type testRecord struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

func readLog(t *testing.T, path string) []testRecord {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []testRecord
	for line := range bytes.Lines(data) {
		var r testRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, r)
	}
	return list
}

// TestEscapedReadsAsJSON: what appendEscaped writes is read back as what encoding/json would have written.
func TestEscapedReadsAsJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	inputs := [][]byte{nil, []byte("a\"\\\n\r\t\b\f\x00\x1f\x7f<&>"), []byte("ä\u2028\U0001F600"), {0xff, 'a', 0xc3}, {0xed, 0xa0, 0x80}, {0xf4, 0x90, 0x80, 0x80}, []byte("\ufffd")}
	for range 2000 {
		b := make([]byte, r.IntN(64))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		inputs = append(inputs, b)
	}
	for _, in := range inputs {
		plain, err := json.Marshal(string(in))
		if err != nil {
			t.Fatal(err)
		}
		var want, got string
		if err := json.Unmarshal(plain, &want); err != nil {
			t.Fatal(err)
		}
		ours := append(appendEscaped([]byte{'"'}, in), '"')
		if err := json.Unmarshal(ours, &got); err != nil || got != want {
			t.Fatalf("%q: wrote %q, reads as %q, %v; want %q", in, ours, got, err, want)
		}
	}
}

func TestLogLines(t *testing.T) {
	long := strings.Repeat("x", maxLogLine)
	for name, tc := range map[string]struct{ chunks, want []string }{
		"whole":          {[]string{"a\nb\n"}, []string{"a\n", "b\n"}},
		"joined":         {[]string{"a", "b", "c\nd"}, []string{"abc\n", "d"}},
		"empty lines":    {[]string{"\n\n", "", "\n"}, []string{"\n", "\n", "\n"}},
		"exactly full":   {[]string{long[1:] + "\n"}, []string{long[1:] + "\n"}},
		"one too long":   {[]string{long + "\n"}, []string{long, "\n"}},
		"cut twice":      {[]string{long + long + "y\n"}, []string{long, long, "y\n"}},
		"cut in chunks":  {[]string{long[:10000], long[:10000] + "\n"}, []string{long, long[:20000-maxLogLine] + "\n"}},
		"full, then end": {[]string{long, "\n"}, []string{long, "\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			l := openLog(runtime.LogSpec{Path: path})
			for _, c := range tc.chunks {
				l.write(1, []byte(c))
			}
			l.close()
			got := readLog(t, path)
			if len(got) != len(tc.want) {
				t.Fatalf("%d records, want %d", len(got), len(tc.want))
			}
			for i, r := range got {
				if r.Log != tc.want[i] || r.Stream != "stdout" {
					t.Errorf("record %d has %d bytes of %s, want %d", i, len(r.Log), r.Stream, len(tc.want[i]))
				}
			}
		})
	}
}

// TestLogStreamsApart: an unfinished line of one stream does not mix with the other's.
func TestLogStreamsApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	before := time.Now()
	l := openLog(runtime.LogSpec{Path: path})
	l.write(1, []byte("out"))
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a file without a record: %v", err)
	}
	l.write(2, []byte("err\n"))
	l.write(1, []byte("put\n"))
	l.write(2, []byte("tail"))
	l.close()
	l.close()
	want := []string{"stderr err\n", "stdout output\n", "stderr tail"}
	got := readLog(t, path)
	if len(got) != len(want) {
		t.Fatalf("records %v", got)
	}
	for i, r := range got {
		if r.Stream+" "+r.Log != want[i] {
			t.Errorf("record %d is %v, want %q", i, r, want[i])
		}
		if r.Time.Before(before) || r.Time.After(time.Now()) || r.Time.Location() != time.UTC {
			t.Errorf("record %d: time %v", i, r.Time)
		}
	}
	none := openLog(runtime.LogSpec{})
	none.write(1, []byte("nothing\n")) // must not fail
	none.close()
}

func TestLogRotation(t *testing.T) {
	for _, files := range []int{0, 1, 2, 3} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log")
			l := openLog(runtime.LogSpec{Path: path, MaxSize: 300, MaxFiles: files})
			for i := range 40 {
				l.write(1, fmt.Appendf(nil, "%d\n", i))
			}
			l.close()
			list, err := os.ReadDir(dir)
			if err != nil || len(list) != max(files, 1) {
				t.Fatalf("files %v, %v; want %d", list, err, max(files, 1))
			}
			var all []testRecord
			for i := files - 1; i > 0; i-- {
				all = append(all, readLog(t, fmt.Sprintf("%s.%d", path, i))...)
			}
			all = append(all, readLog(t, path)...)
			for i, r := range all { // the last ones, none missing in between
				if want := fmt.Sprintf("%d\n", 40-len(all)+i); r.Log != want {
					t.Errorf("record %d of %d is %q, want %q", i, len(all), r.Log, want)
				}
			}
			if files > 1 && len(all) < 4*(files-1) {
				t.Errorf("%d records in %d files", len(all), files)
			}
		})
	}
}

// TestLogContinues: a log that is there already is written on and its size counts; a link in its place is not followed.
func TestLogContinues(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	for i := range 2 {
		l := openLog(runtime.LogSpec{Path: path, MaxSize: 120, MaxFiles: 2})
		l.write(1, fmt.Appendf(nil, "%d\n", i))
		l.close()
	}
	if got := readLog(t, path+".1"); len(got) != 2 {
		t.Errorf("rotated file: %v", got)
	}
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	l := openLog(runtime.LogSpec{Path: link})
	l.write(1, []byte("x\n"))
	l.close()
	if _, err := os.Stat(target); !os.IsNotExist(err) {
		t.Errorf("the link was followed: %v", err)
	}
}
