package jsonscan

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// sample has a field for each reader, its own function written by hand.
type sample struct {
	S  string
	B  bool
	I8 int8
	U8 uint8
	P  *string
	L  []string
	M  map[string]int
	T  time.Time
	A  netip.Addr
	D  []byte
	E  map[string]struct{}
	PL *[]string
}

var sampleNames = [...]string{"S", "B", "I8", "U8", "P", "L", "M", "T", "A", "D", "E", "PL"}

func readSample(s *Scanner, v *sample) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(sampleNames[:]) {
		case 0:
			String(s, &v.S)
		case 1:
			Bool(s, &v.B)
		case 2:
			Int(s, &v.I8)
		case 3:
			Uint(s, &v.U8)
		case 4:
			Pointer(s, &v.P, String[string])
		case 5:
			List(s, &v.L, String[string])
		case 6:
			Map(s, &v.M, Int[int])
		case 7:
			Own(s, &v.T)
		case 8:
			Text(s, &v.A)
		case 9:
			Bytes(s, &v.D)
		case 10:
			Map(s, &v.E, Empty)
		case 11:
			Pointer(s, &v.PL, func(s *Scanner, v *[]string) { List(s, v, String[string]) })
		default:
			s.Skip()
		}
	}
}

func same(t *testing.T, text string) {
	t.Helper()
	got, want := new(sample), new(sample)
	err, wantErr := Decode([]byte(text), got, readSample), json.Unmarshal([]byte(text), want)
	if (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%.300q: %+v, %v; encoding/json: %+v, %v", text, got, err, want, wantErr)
	}
}

// TestEveryReaderWithEveryValue: each reader accepts and refuses what encoding/json does for its type, once and a second time.
func TestEveryReaderWithEveryValue(t *testing.T) {
	values := []string{
		`null`, `true`, `false`, `0`, `-0`, `1`, `-1`, `127`, `128`, `-128`, `-129`, `255`, `256`, `1.0`, `1e0`, `9223372036854775807`, `9223372036854775808`,
		`""`, `"a"`, `"YQ=="`, `"YQ"`, `"Y\nQ=="`, `"Y\u0051=="`, `"10.0.0.1"`, `"::1"`, `"2026-01-02T03:04:05Z"`, `"2026-01-02T03:04:05.5+01:00"`, `"2026-1-2T03:04:05Z"`, `"2026-01-02T03:04:05\u005a"`,
		`[]`, `[null]`, `["a"]`, `["a","b","c","d","e"]`, `[1,2]`, `[300]`, `{}`, `{"a":1}`, `{"a":{}}`, `{"a":null}`, `{"a":{"b":[1]}}`, `{"a":"x"}`, `[`, `{`, `x`, ``, `"`, `-`, `tru`,
	}
	for _, name := range append(sampleNames[:], "unknown", "pl", "ſ") {
		for _, first := range values {
			same(t, `{"`+name+`":`+first+`}`)
			for _, second := range values {
				same(t, ` { "`+name+`" : `+first+` , "`+name+"\"\t:\n"+second+"\r} ")
			}
		}
	}
}

func TestUnquote(t *testing.T) {
	parts := []string{`a`, `ä`, `\"`, `\\`, `\/`, `\b\f\n\r\t`, `\u0041`, `\u00e4`, `\ud83d`, `\ude00`, `\uDBFF`, `\uDFFF`, `\u0000`, "\xff", "\xc3", "\xed\xa0\x80", "😀", "\u2028"}
	for _, a := range parts {
		for _, b := range parts {
			for _, c := range parts {
				same(t, `{"S":"`+a+b+c+`","M":{"`+b+c+a+`":1}}`)
			}
		}
	}
}

// TestErrorsOfTypesThatReadThemselves: the type's own words stand at the value's place.
func TestErrorsOfTypesThatReadThemselves(t *testing.T) {
	for text, want := range map[string]string{
		"{\n \"A\":\"x\"}":   `A: ParseAddr("x"): unable to parse IP (line 2, column 6)`,
		`{"L":[],"D":"?"}`:   `D: illegal base64 data at input byte 0 (line 1, column 13)`,
		`{"A":1}`:            `A: a string is wanted, not 1 (line 1, column 6)`,
		`{"D":true}`:         `D: a string of base64 is wanted, not true (line 1, column 6)`,
		`{"E":{"a b":"c"}}`:  `E["a b"]: an object is wanted, not "c" (line 1, column 13)`,
		`{"M":{"":{"x":1}}}`: `M[""]: a whole number from -9223372036854775808 to 9223372036854775807 is wanted, not an object (line 1, column 10)`,
	} {
		if err := Decode([]byte(text), new(sample), readSample); err == nil || err.Error() != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := Decode([]byte(`{"T":"x"}`), new(sample), readSample); err == nil || !strings.HasPrefix(err.Error(), `T: parsing time "x"`) || !strings.HasSuffix(err.Error(), "(line 1, column 6)") {
		t.Error(err)
	}
}

func FuzzSample(f *testing.F) {
	f.Add([]byte(`{"S":"a","B":true,"I8":-5,"U8":7,"P":"b","L":["c"],"M":{"d":1},"T":"2026-01-02T03:04:05Z","A":"::1","D":"YQ==","E":{"e":{}},"PL":["f"]}`))
	f.Fuzz(func(t *testing.T, text []byte) { same(t, string(text)) })
}
