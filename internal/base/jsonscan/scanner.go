// Package jsonscan reads JSON into Go values in one pass, without reflection: who reads says by a function for each type what is wanted.
//
// encoding/json studies a type, with all types within, before the first value of it. A program that reads one text and ends pays for
// that each time; here nothing is studied. The functions for structs are generated from the Go types (package gen below this one).
//
// What is read is what encoding/json reads, to the last quirk, since two programs that read one text differently are a way around a
// check: names match exactly or else without regard to case; null leaves a number, string or struct as it is and empties a pointer, list or
// map; a name that stands twice is read twice into the same place; unknown names are skipped, their syntax checked; bytes that are
// not UTF-8 and lone surrogates become U+FFFD. What differs: a text over [MaxInput], or whose lists and maps need more than
// [MaxMemory], is refused.
//
// An error says what was wanted where, as a path and as line and column. The place is looked up when there is an error: reading keeps no track.
package jsonscan

import (
	"bytes"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// MaxInput bounds a text, in bytes.
	MaxInput = 16 << 20
	// MaxMemory bounds what lists and maps take, in bytes. An element can be 3 bytes in the text, "{},", and over a hundred in memory.
	MaxMemory = 64 << 20
	// maxDepth bounds how deep objects and lists nest; that of encoding/json.
	maxDepth = 10000
)

// Scanner reads one text. After an error it behaves as at the text's end.
type Scanner struct {
	data   []byte
	pos    int
	depth  int
	memory int    // bytes that lists and maps may yet take
	key    []byte // the name that Object or More has read
	err    *Error
}

// Decode reads the whole of data into v. The error is an *Error, or about the size.
func Decode[T any](data []byte, v *T, read func(*Scanner, *T)) error {
	s := &Scanner{data: data, memory: MaxMemory}
	if len(data) > MaxInput {
		return &Error{Msg: "the text is over the limit of 16 MiB"}
	}
	read(s, v)
	if c := s.peek(); s.err == nil && (c != 0 || s.pos < len(data)) {
		s.syntax("the end of the text")
	}
	if s.err != nil {
		return s.err
	}
	return nil
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *Scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// at returns the byte at the position, 0 at the end.
func (s *Scanner) at() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// Object begins an object and reads the first name. It is false, and nothing is left to do, for {}, null and everything wrong.
//
//	for more := s.Object(); more; more = s.More() {
//		switch s.Field(names) { … default: s.Skip() }
//	}
func (s *Scanner) Object() bool {
	if !s.open('{', "an object") {
		return false
	}
	if s.peek() == '}' {
		s.close()
		return false
	}
	return s.name("a name in quotes or }")
}

// More reads the next name of an object whose last value has been read; false at its end.
func (s *Scanner) More() bool {
	switch s.peek() {
	case ',':
		s.pos++
		return s.name("a name in quotes")
	case '}':
		s.close()
	default:
		s.syntax("a comma or }")
	}
	return false
}

// array begins a list, up to its first element.
func (s *Scanner) array() bool {
	if !s.open('[', "a list") {
		return false
	}
	if s.peek() == ']' {
		s.close()
		return false
	}
	return true
}

// another goes to the next element of a list.
func (s *Scanner) another() bool {
	switch s.peek() {
	case ',':
		s.pos++
		return true
	case ']':
		s.close()
	default:
		s.syntax("a comma or ]")
	}
	return false
}

func (s *Scanner) open(c byte, want string) bool {
	if s.peek() != c {
		s.null(want)
		return false
	}
	if s.depth++; s.depth > maxDepth {
		s.fail("objects and lists stand in each other deeper than 10000", s.pos)
		return false
	}
	s.pos++
	return true
}

func (s *Scanner) close() {
	s.depth--
	s.pos++
}

// name reads a name and its colon.
func (s *Scanner) name(want string) bool {
	if s.peek() != '"' {
		s.syntax(want)
		return false
	}
	raw, plain := s.quoted()
	s.key = raw
	if !plain {
		s.key = unquote(raw)
	}
	if s.peek() != ':' {
		s.syntax("a colon")
		return false
	}
	s.pos++
	return s.err == nil
}

// Field returns the index in names of the name that was read, -1 for none.
func (s *Scanner) Field(names []string) int {
	for i, n := range names {
		if len(n) == len(s.key) && n == string(s.key) {
			return i
		}
	}
	key := string(s.key)
	for i, n := range names {
		if strings.EqualFold(n, key) {
			return i
		}
	}
	return -1
}

// Skip reads a value of any kind, for its syntax only.
func (s *Scanner) Skip() {
	switch c := s.peek(); {
	case c == '{':
		for more := s.Object(); more; more = s.More() {
			s.Skip()
		}
	case c == '[':
		for more := s.array(); more; more = s.another() {
			s.Skip()
		}
	case c == '"':
		s.quoted()
	case c == '-' || '0' <= c && c <= '9':
		s.number()
	case c == 't':
		s.literal("true")
	case c == 'f':
		s.literal("false")
	case c == 'n':
		s.literal("null")
	default:
		s.syntax("a value")
	}
}

// null takes null, which changes nothing; anything else is not what is wanted here. It reports whether it was null.
func (s *Scanner) null(want string) bool {
	if s.peek() == 'n' {
		return s.literal("null")
	}
	s.mismatch(want)
	return false
}

func (s *Scanner) literal(word string) bool {
	for i := range len(word) {
		if s.at() != word[i] {
			s.syntax(word)
			return false
		}
		s.pos++
	}
	return true
}

// quoted reads a string and returns what is between its quotes, and whether that is the string already.
func (s *Scanner) quoted() (raw []byte, plain bool) {
	s.pos++
	from := s.pos
	plain = true
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[from : s.pos-1], plain
		case c == '\\':
			plain = false
			if !s.escape() {
				return nil, true
			}
		case c < ' ':
			s.fail("a control character in a string must be written as an escape: \\u00"+hexOf(c), s.pos)
			return nil, true
		default:
			plain = plain && c < utf8.RuneSelf
			s.pos++
		}
	}
	s.syntax("a closing quote")
	return nil, true
}

// escape steps over an escape sequence: RFC 8259, section 7.
func (s *Scanner) escape() bool {
	from := s.pos
	s.pos++
	switch s.at() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return true
	case 'u':
		s.pos++
		for range 4 {
			if _, ok := hexDigit(s.at()); !ok {
				s.syntax("a hexadecimal digit")
				return false
			}
			s.pos++
		}
		return true
	}
	if s.pos == len(s.data) {
		s.syntax("a closing quote")
	} else {
		s.fail("there is no such escape in JSON: "+shown(s.data[from:]), from)
	}
	return false
}

// unquote resolves escapes and replaces what is no character.
func unquote(raw []byte) []byte {
	out := make([]byte, 0, len(raw)+2*utf8.UTFMax)
	for len(raw) > 0 {
		if raw[0] != '\\' {
			n := bytes.IndexByte(raw, '\\')
			if n < 0 {
				n = len(raw)
			}
			for part := raw[:n]; len(part) > 0; {
				r, size := utf8.DecodeRune(part)
				out = utf8.AppendRune(out, r) // RuneError is U+FFFD
				part = part[size:]
			}
			raw = raw[n:]
			continue
		}
		c := raw[1]
		if c == 'u' {
			r := fourHex(raw[2:])
			raw = raw[6:]
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if len(raw) >= 6 && raw[0] == '\\' && raw[1] == 'u' {
					low = fourHex(raw[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError { // it is a pair
					raw = raw[6:]
				}
			}
			out = utf8.AppendRune(out, r)
			continue
		}
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		out = append(out, c)
		raw = raw[2:]
	}
	return out
}

func fourHex(b []byte) (r rune) {
	for _, c := range b[:4] {
		d, _ := hexDigit(c)
		r = r<<4 | rune(d)
	}
	return r
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

func hexOf(c byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[c>>4], digits[c&15]})
}

// number reads a number and returns its text: RFC 8259, section 6.
func (s *Scanner) number() []byte {
	from := s.pos
	if s.at() == '-' {
		s.pos++
	}
	if s.at() == '0' {
		s.pos++
	} else if !s.digits() {
		return nil
	}
	if s.at() == '.' {
		s.pos++
		if !s.digits() {
			return nil
		}
	}
	if s.at()|0x20 == 'e' {
		s.pos++
		if c := s.at(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return nil
		}
	}
	return s.data[from:s.pos]
}

func (s *Scanner) digits() bool {
	from := s.pos
	for c := s.at(); '0' <= c && c <= '9'; c = s.at() {
		s.pos++
	}
	if s.pos == from {
		s.syntax("a digit")
		return false
	}
	return true
}
