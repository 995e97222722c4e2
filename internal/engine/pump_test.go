package engine

import (
	"context"
	"errors"
	"io"
	"testing"

	"brig/api"
)

type fakeStream struct {
	got    []byte
	closed bool
	fail   error
}

func (f *fakeStream) Input(b []byte) error        { f.got = append(f.got, b...); return f.fail }
func (f *fakeStream) CloseInput() error           { f.closed = true; return nil }
func (f *fakeStream) Resize(api.WindowSize) error { return nil }
func (f *fakeStream) Wait(context.Context, io.Writer, io.Writer) (api.Exit, error) {
	return api.Exit{}, nil
}
func (f *fakeStream) Close() error { return nil }

// typed gives one chunk a read.
type typed []string

func (t *typed) Read(b []byte) (int, error) {
	if len(*t) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*t)[0])
	*t = (*t)[1:]
	return n, nil
}

func TestDetachKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		keys     []byte
		plain    bool // no terminal
		in       typed
		want     string
		detached bool
	}{
		"no keys typed":   {in: typed{"ab", "c"}, want: "abc"},
		"default":         {in: typed{"ab\x10\x11cd"}, want: "ab", detached: true},
		"over two reads":  {in: typed{"a\x10", "\x11b"}, want: "a", detached: true},
		"broken off":      {in: typed{"\x10x\x11"}, want: "\x10x\x11"},
		"broken in reads": {in: typed{"\x10", "x"}, want: "\x10x"},
		"first key twice": {in: typed{"\x10\x10\x11"}, want: "\x10", detached: true},
		"own":             {keys: []byte("~."), in: typed{"\x10\x11~x~.y"}, want: "\x10\x11~x", detached: true},
		"one key":         {keys: []byte{1}, in: typed{"a\x01b"}, want: "a", detached: true},
		"none":            {keys: []byte{}, in: typed{"\x10\x11"}, want: "\x10\x11"},
		"no terminal":     {plain: true, in: typed{"\x10\x11"}, want: "\x10\x11"},
	} {
		t.Run(name, func(t *testing.T) {
			st, detached := &fakeStream{}, make(chan struct{})
			pumpInput(st, api.Attach{TTY: !tc.plain, DetachKeys: tc.keys, Streams: api.Streams{Stdin: &tc.in}}, detached)
			gone := false
			select {
			case <-detached:
				gone = true
			default:
			}
			if string(st.got) != tc.want || gone != tc.detached || st.closed == tc.detached {
				t.Errorf("sent %q, detached %v, closed %v; want %q, %v", st.got, gone, st.closed, tc.want, tc.detached)
			}
		})
	}
	st, in := &fakeStream{fail: errors.New("gone")}, typed{"a", "b"}
	pumpInput(st, api.Attach{Streams: api.Streams{Stdin: &in}}, nil)
	if string(st.got) != "a" || st.closed || len(in) != 1 {
		t.Errorf("after a failure: %q, %v", st.got, in)
	}
}
