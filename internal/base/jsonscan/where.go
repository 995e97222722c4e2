package jsonscan

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error says what is wrong with a text, and where.
type Error struct {
	Path   string // as process.user.uid or mounts[2].options; empty at the top
	Msg    string
	Line   int // from 1; 0: the text as a whole
	Column int // from 1, in characters
}

// Error is "process.user.uid: a whole number from 0 to 4294967295 is wanted, not "x" (line 12, column 9)".
func (e *Error) Error() string {
	msg := e.Msg
	if e.Path != "" {
		msg = e.Path + ": " + msg
	}
	if e.Line > 0 {
		msg += " (line " + strconv.Itoa(e.Line) + ", column " + strconv.Itoa(e.Column) + ")"
	}
	return msg
}

// fail keeps the first error, at a byte of the text, and goes to the end.
func (s *Scanner) fail(msg string, pos int) {
	if s.err != nil {
		return
	}
	line := 1 + bytes.Count(s.data[:pos], []byte("\n"))
	start := 1 + bytes.LastIndexByte(s.data[:pos], '\n')
	s.err = &Error{Path: path(s.data[:pos]), Msg: msg, Line: line, Column: 1 + utf8.RuneCount(s.data[start:pos])}
	s.data, s.pos = nil, 0
}

// syntax fails at the byte that is next.
func (s *Scanner) syntax(want string) {
	if s.err == nil {
		s.fail(want+" is wanted, not "+found(s.data[s.pos:]), s.pos)
	}
}

// mismatch fails at the value that is next, and says what it is.
func (s *Scanner) mismatch(want string) {
	if s.err == nil {
		s.fail(want+" is wanted, not "+value(s.data[s.pos:]), s.pos)
	}
}

// most is how much of a text an error shows, in bytes.
const most = 40

// value describes the value that b begins with.
func value(b []byte) string {
	switch {
	case len(b) == 0:
	case b[0] == '{':
		return "an object"
	case b[0] == '[':
		return "a list"
	case b[0] == '"':
		for i := 1; i < len(b) && i < most; i++ {
			if b[i] == '\\' {
				i++
			} else if b[i] == '"' {
				return strconv.Quote(string(unquoteShown(b[1:i])))
			}
		}
		return "a string that begins with " + shown(b[1:])
	default:
		n := 0
		for n < len(b) && n < most && (b[n]|0x20 >= 'a' && b[n]|0x20 <= 'z' || b[n] >= '0' && b[n] <= '9' || strings.IndexByte("+-.", b[n]) >= 0) {
			n++
		}
		if n > 0 {
			return string(b[:n])
		}
	}
	return found(b)
}

// unquoteShown is unquote for a string that has not been checked.
func unquoteShown(raw []byte) []byte {
	s := &Scanner{data: append(append([]byte{'"'}, raw...), '"')}
	if s.quoted(); s.err != nil {
		return raw
	}
	return unquote(raw)
}

// found describes the character that b begins with.
func found(b []byte) string {
	if len(b) == 0 {
		return "the end of the text"
	}
	_, n := utf8.DecodeRune(b)
	return strconv.Quote(string(b[:n]))
}

// shown is the beginning of b in quotes.
func shown(b []byte) string {
	if len(b) > 0 && b[0] == '\\' {
		_, n := utf8.DecodeRune(b[1:])
		return string(b[:1]) + strings.Trim(strconv.Quote(string(b[1:1+n])), `"`)
	}
	b = b[:min(len(b), most)]
	return strconv.Quote(string(b))
}

// frame is one object or list that is open.
type frame struct {
	object bool
	in     bool   // a value is being read, or is due
	key    []byte // its name, with quotes taken off
	index  int
}

// path is where a text ends: the names and numbers of the values that are open there. All of b has been read without an error.
func path(b []byte) string {
	var open []frame
	ended := func() { // a value
		if len(open) > 0 {
			open[len(open)-1].in = false
		}
	}
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '{':
			open = append(open, frame{object: true})
		case '[':
			open = append(open, frame{in: true})
		case '}', ']':
			open = open[:max(len(open)-1, 0)]
			ended()
		case ',':
			if len(open) > 0 {
				f := &open[len(open)-1]
				f.index++
				f.in = !f.object
			}
		case ':':
			open[len(open)-1].in = true
		case '"':
			from := i + 1
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if i >= len(b) { // the error is in this string
				break
			}
			if f := len(open) - 1; f >= 0 && open[f].object && !open[f].in {
				open[f].key = b[from:i]
			} else {
				ended()
			}
		case ' ', '\t', '\r', '\n':
		default: // a literal or a number
			for i+1 < len(b) && strings.IndexByte(",]} \t\r\n", b[i+1]) < 0 {
				i++
			}
			if i+1 < len(b) {
				ended()
			}
		}
	}
	return join(open)
}

func join(open []frame) string {
	const longest = 200 // of a path that is shown, in bytes
	var p strings.Builder
	for _, f := range open {
		if !f.in {
			break
		}
		if p.Len() > longest {
			p.WriteString("…")
			break
		}
		if !f.object {
			p.WriteString("[" + strconv.Itoa(f.index) + "]")
			continue
		}
		if key := string(f.key); !plainName(key) {
			p.WriteString("[" + shown(unquoteShown(f.key)) + "]")
		} else {
			if p.Len() > 0 {
				p.WriteByte('.')
			}
			p.WriteString(key)
		}
	}
	return p.String()
}

func plainName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= most
}
