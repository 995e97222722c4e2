package jsonscan

import (
	"encoding"
	"encoding/base64"
	"strconv"
	"unsafe"
)

// String reads a string.
func String[S ~string](s *Scanner, v *S) {
	if s.peek() != '"' {
		s.null("a string")
		return
	}
	if t, ok := s.text(); ok {
		*v = S(t)
	}
}

func (s *Scanner) text() (string, bool) {
	raw, plain := s.quoted()
	if s.err != nil {
		return "", false
	}
	if !plain {
		raw = unquote(raw)
	}
	return string(raw), true
}

// Bool reads true or false.
func Bool[B ~bool](s *Scanner, v *B) {
	switch s.peek() {
	case 't':
		if s.literal("true") {
			*v = true
		}
	case 'f':
		if s.literal("false") {
			*v = false
		}
	default:
		s.null("true or false")
	}
}

// Int reads a whole number that fits.
func Int[I ~int | ~int8 | ~int16 | ~int32 | ~int64](s *Scanner, v *I) {
	if n, ok := s.integer(int(unsafe.Sizeof(*v))*8, true); ok {
		*v = I(n)
	}
}

// Uint reads a whole number from 0 that fits.
func Uint[U ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](s *Scanner, v *U) {
	if n, ok := s.integer(int(unsafe.Sizeof(*v))*8, false); ok {
		*v = U(n)
	}
}

// integer reads a whole number of so many bits. A negative one comes as its two's complement.
func (s *Scanner) integer(bits int, signed bool) (n uint64, ok bool) {
	c := s.peek()
	from := s.pos
	if c != '-' && (c < '0' || c > '9') {
		if c != 'n' || !s.literal("null") {
			s.mismatch(wholeNumber(bits, signed))
		}
		return 0, false
	}
	text := s.number()
	if s.err != nil {
		return 0, false
	}
	limit := uint64(1)<<bits - 1 // for 64 bits the shift gives 0
	negative := text[0] == '-'
	digits := text
	if negative {
		digits = text[1:]
	}
	if signed {
		limit >>= 1
		if negative {
			limit++
		}
	}
	ok = signed || !negative
	for _, c := range digits {
		d := uint64(c - '0') // a point or an exponent is far above 9
		if d > 9 || n > limit/10 || n*10 > limit-d {
			ok = false
			break
		}
		n = n*10 + d
	}
	if !ok {
		s.pos = from
		s.mismatch(wholeNumber(bits, signed))
		return 0, false
	}
	if negative {
		n = -n
	}
	return n, true
}

func wholeNumber(bits int, signed bool) string {
	low, high := "0", uint64(1)<<bits-1
	if signed {
		high >>= 1
		low = strconv.FormatInt(-int64(high)-1, 10)
	}
	return "a whole number from " + low + " to " + strconv.FormatUint(high, 10)
}

// Pointer reads what the pointer points to; null empties the pointer.
func Pointer[T any](s *Scanner, v **T, read func(*Scanner, *T)) {
	if s.peek() == 'n' {
		if s.literal("null") {
			*v = nil
		}
		return
	}
	if *v == nil {
		*v = new(T)
	}
	read(s, *v)
}

// List reads a list; null makes it nil. As in encoding/json, elements that stood there, or once stood there, are read into again.
func List[T any](s *Scanner, v *[]T, read func(*Scanner, *T)) {
	if s.peek() == 'n' {
		if s.literal("null") {
			*v = nil
		}
		return
	}
	more := s.array()
	if s.err != nil {
		return
	}
	list := *v
	n := 0
	for ; more; more = s.another() {
		if n >= len(list) {
			var zero T
			if !s.spend(unsafe.Sizeof(zero)) {
				return
			}
			switch {
			case n < cap(list):
				list = list[:n+1]
			case list == nil:
				list = make([]T, 1, 4)
			default:
				list = append(list, zero)
			}
		}
		read(s, &list[n])
		n++
	}
	if n == 0 {
		list = []T{}
	}
	*v = list[:n]
}

// Map reads an object with any names; null makes it nil. A name that stands twice has its last value.
func Map[K ~string, T any](s *Scanner, v *map[K]T, read func(*Scanner, *T)) {
	if s.peek() == 'n' {
		if s.literal("null") {
			*v = nil
		}
		return
	}
	more := s.Object()
	if s.err != nil {
		return
	}
	if *v == nil {
		*v = make(map[K]T)
	}
	for ; more; more = s.More() {
		var value T
		key := K(s.key)
		if !s.spend(unsafe.Sizeof(value) + unsafe.Sizeof(key)) {
			return
		}
		if read(s, &value); s.err == nil {
			(*v)[key] = value
		}
	}
}

// spend takes an element's size off what lists and maps may take.
func (s *Scanner) spend(size uintptr) bool {
	if s.memory -= int(size) + 16; s.memory < 0 { // 16: a list grows by more than it needs, a map has tables
		s.fail("lists and maps need more than the limit of 64 MiB", s.pos)
	}
	return s.err == nil
}

// Own reads a value into a type that reads itself. It is given the value's text, null too, as by encoding/json.
func Own(s *Scanner, v interface{ UnmarshalJSON(text []byte) error }) {
	s.peek()
	from := s.pos
	s.Skip()
	if s.err != nil {
		return
	}
	if err := v.UnmarshalJSON(s.data[from:s.pos]); err != nil {
		s.fail(err.Error(), from)
	}
}

// Text reads a string into a type that reads itself from one.
func Text(s *Scanner, v encoding.TextUnmarshaler) {
	if s.peek() != '"' {
		s.null("a string")
		return
	}
	from := s.pos
	if t, ok := s.text(); ok {
		if err := v.UnmarshalText([]byte(t)); err != nil {
			s.fail(err.Error(), from)
		}
	}
}

// Bytes reads a string of base64, or a list of numbers; null makes it nil.
func Bytes(s *Scanner, v *[]byte) {
	switch s.peek() {
	case '"':
	case '[':
		List(s, v, Uint[byte])
		return
	default:
		if s.null("a string of base64") {
			*v = nil
		}
		return
	}
	from := s.pos
	if t, ok := s.text(); ok {
		b, err := base64.StdEncoding.DecodeString(t)
		if err != nil {
			s.fail(err.Error(), from)
			return
		}
		*v = b
	}
}

// Empty reads an object none of whose names mean anything.
func Empty(s *Scanner, _ *struct{}) {
	for more := s.Object(); more; more = s.More() {
		s.Skip()
	}
}
