package wire

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/runtime"
)

func TestRowRoundTrip(t *testing.T) {
	ints := []int64{0, 1, -1, 63, 64, -65, math.MaxInt64, math.MinInt64}
	strs := []string{"", "a", "ä\x00\xff", string(bytes.Repeat([]byte("x"), 70000))}
	v := new(row)
	for _, n := range ints {
		v.putInt(n)
	}
	for _, s := range strs {
		v.putString(s)
	}
	v.putStrings(strs)
	v.putBool(true)
	v.putBool(false)
	r := &row{v.b}
	for _, n := range ints {
		if got := r.int(); int64(got) != n {
			t.Errorf("int %d became %d", n, got)
		}
	}
	for _, s := range strs {
		if got := r.string(); got != s {
			t.Errorf("string of %d bytes became %d", len(s), len(got))
		}
	}
	if got := r.strings(); !slices.Equal(got, strs) {
		t.Errorf("%d strings became %d", len(strs), len(got))
	}
	if !r.bool() || r.bool() || len(r.b) != 0 {
		t.Errorf("bools, or %d bytes left", len(r.b))
	}
	if r.int() != 0 || r.string() != "" || r.bool() || r.strings() != nil {
		t.Error("the end of the row is not zero")
	}
}

// fill sets every field, so that one that a codec forgets is seen to be missing.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.String:
		v.SetString("ä\"\x00" + strings.Repeat("x", *n%5))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1700000000, int64(*n)).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	default:
		panic("no value for a " + v.Type().String())
	}
}

func filled[T any]() *T {
	v, n := new(T), 0
	fill(reflect.ValueOf(v).Elem(), &n)
	return v
}

func TestEverythingComesBack(t *testing.T) {
	full := filled[Request]()
	full.Bundle.Files = nil  // descriptors go another way
	full.Bundle.Restore = "" // it is in the box before the keeper hears of that
	for _, r := range []*Request{{}, {Op: "add", ID: "x"}, {Op: "exec", Process: &specs.Process{}}, full} {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeRequest(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v became %+v, %v", r, got, err)
		}
	}
	for _, s := range []*Saved{{}, filled[Saved](), {ListenerFD: -1, Containers: []SavedContainer{{StartedAt: time.Unix(0, 0).UTC()}, *filled[SavedContainer]()}}} {
		if got := DecodeSaved(s.Encode()); !reflect.DeepEqual(got, s) {
			t.Errorf("%+v became %+v", s, got)
		}
	}
	for _, e := range []api.Exit{
		{At: time.Unix(0, 0).UTC()},
		{Code: 137, OOMKilled: true, Error: "no\nroom", At: time.Unix(1700000000, 123456789).UTC()},
		{Code: -1, At: time.Unix(-5, 7).UTC()},
		*filled[api.Exit](),
	} {
		if got := DecodeExit(EncodeExit(e)); !reflect.DeepEqual(got, e) {
			t.Errorf("%+v became %+v", e, got)
		}
	}
	for _, r := range []Reply{{}, {Pid: 1 << 22}, {Error: "x", Kind: api.NotFound}, {Error: "bare"}, *filled[Reply]()} {
		got := DecodeReply(r.Encode())
		if got != r {
			t.Errorf("%+v became %+v", r, got)
		}
		if err := got.Err(); (err != nil) != (r.Error != "") || err != nil && (err.Error() != r.Error || r.Kind != "" && api.KindOf(err) != r.Kind) {
			t.Errorf("%+v: error %v", r, err)
		}
	}
}

// TestRowsMayGrow: what a later version writes at the end is not looked at, and what an earlier one did not write is zero.
func TestRowsMayGrow(t *testing.T) {
	r := &Request{Op: "add", ID: "x", Bundle: runtime.Bundle{ID: "x", Root: []api.Mount{{Type: "t", Options: []string{"o"}}}}}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeRequest(append(slices.Clone(b), "more"...)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := DecodeRequest(b[:6]); err != nil || !reflect.DeepEqual(got, &Request{Op: "add", ID: "x"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRequestNamesTheField(t *testing.T) {
	v := new(row)
	v.putString("exec")
	v.putString("x")
	for range 4 {
		v.putBool(false)
	}
	v.putString("")
	v.putString(`{"user":{"uid":-1}}`)
	_, err := DecodeRequest(v.b)
	if api.KindOf(err) != api.InvalidArgument || !strings.HasPrefix(err.Error(), "the request's process: user.uid: a whole number ") {
		t.Error(err)
	}
}

// FuzzRow: no row makes a reader fail or give more than it holds.
func FuzzRow(f *testing.F) {
	f.Add([]byte{})
	f.Add(EncodeExit(api.Exit{Code: 1, Error: "x"}))
	f.Add(Reply{Pid: 7, Error: "x", Kind: api.NotFound}.Encode())
	f.Add(bytes.Repeat([]byte{0xff}, 12))                                                // a number that does not end
	f.Add(append([]byte{0}, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)) // a string of 2^63-1 bytes
	f.Add([]byte{0, 0x01})                                                               // a string of -1 bytes
	f.Fuzz(func(t *testing.T, b []byte) {
		if e := DecodeExit(slices.Clone(b)); len(e.Error) > len(b) {
			t.Errorf("error of %d bytes out of %d", len(e.Error), len(b))
		}
		if r := DecodeReply(slices.Clone(b)); len(r.Error)+len(r.Kind) > len(b) {
			t.Errorf("reply %+v out of %d bytes", r, len(b))
		}
		v := &row{slices.Clone(b)}
		for range len(b) {
			before := len(v.b)
			s := v.string()
			if len(v.b)+len(s) > before {
				t.Fatalf("%d bytes left and %d read, of %d", len(v.b), len(s), before)
			}
		}
	})
}

// FuzzRequest: what is read of any row is written and read again the same, and is no larger than the row allows.
func FuzzRequest(f *testing.F) {
	b, err := filled[Request]().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err != nil {
			if api.KindOf(err) != api.InvalidArgument {
				t.Error(err)
			}
			return
		}
		if n := len(r.Bundle.Root) + len(r.Bundle.Reap); n > len(b) {
			t.Errorf("%d things out of %d bytes", n, len(b))
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeRequest(again)
		if err != nil {
			t.Fatal(err)
		}
		// By what is written of both: an empty list in the process is left out, and is none when it is read.
		if third, err := got.Encode(); err != nil || !bytes.Equal(third, again) {
			t.Errorf("%+v became %+v, %v", r, got, err)
		}
	})
}

func FuzzSaved(f *testing.F) {
	f.Add(filled[Saved]().Encode())
	f.Add((&Saved{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s := DecodeSaved(b)
		if len(s.FDs)+len(s.Reap)+len(s.Containers) > len(b) {
			t.Errorf("%d, %d, %d things out of %d bytes", len(s.FDs), len(s.Reap), len(s.Containers), len(b))
		}
		if got := DecodeSaved(s.Encode()); !reflect.DeepEqual(got, s) {
			t.Errorf("%+v became %+v", s, got)
		}
	})
}

// FuzzFrames: a stream in any pieces gives the frames that it gives as a whole, on the side that splits and on the side that reads.
func FuzzFrames(f *testing.F) {
	var two bytes.Buffer
	_ = WriteFrame(&two, FrameStdin, []byte("abc"))
	_ = WriteFrame(&two, FrameDone, nil)
	f.Add(two.Bytes(), 3)
	f.Add([]byte{FrameStdin, 1, 0, 16, 0, 0}, 1) // one byte over the limit
	f.Add([]byte{FrameStdin, 255, 255, 255, 255}, 5)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		type frame struct {
			kind    byte
			payload string
		}
		var split []frame
		var in []byte
		var splitErr error
		for left := stream; splitErr == nil && len(left) > 0; {
			n := min(max(piece, 1), len(left))
			in, left = append(in, left[:n]...), left[n:]
			for {
				kind, payload, rest, ok, err := Split(in)
				if splitErr = err; err != nil || !ok {
					break
				}
				if len(payload) > MaxFrame || len(payload)+len(rest)+HeaderLen != len(in) {
					t.Fatalf("%d and %d bytes of %d", len(payload), len(rest), len(in))
				}
				split = append(split, frame{kind, string(payload)})
				in = rest
			}
		}
		var read []frame
		var buf []byte
		r := bytes.NewReader(stream)
		for {
			kind, payload, err := ReadFrame(r, buf)
			if err != nil {
				if tooLong := strings.Contains(err.Error(), "limit"); tooLong != (splitErr != nil) {
					t.Errorf("reading: %v, splitting: %v", err, splitErr)
				}
				break
			}
			read = append(read, frame{kind, string(payload)})
			buf = payload[:0]
		}
		if !slices.Equal(split, read) {
			t.Errorf("split %q\nread %q", split, read)
		}
	})
}
