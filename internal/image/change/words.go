package change

import (
	"fmt"
	"strings"
)

// split takes a line apart at blanks outside of quotes. Quotes and backslashes stay: expand takes them away.
func split(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun := false
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
			continue
		case c == '\\' && quote != '\'' && i+1 < len(s):
			word.WriteByte(c)
			i++
			c = s[i]
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		}
		begun = true
		word.WriteByte(c)
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// lookup finds a variable of the config's environment.
func (c *Config) lookup(name string) (string, bool) {
	for _, e := range c.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// expand takes quotes and backslashes away and puts values in the place of $NAME, ${NAME}, ${NAME:-word} and ${NAME:+word}; nothing is
// expanded within single quotes. A value is put in as it is.
func (c *Config) expand(s string) (string, error) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case quote == '\'' && ch != '\'':
			out.WriteByte(ch)
		case ch == '\\' && i+1 < len(s):
			i++
			if quote == '"' && !strings.ContainsRune("\"$\\", rune(s[i])) {
				out.WriteByte('\\')
			}
			out.WriteByte(s[i])
		case ch == quote && quote != 0:
			quote = 0
		case quote == 0 && (ch == '"' || ch == '\''):
			quote = ch
		case ch == '$':
			v, n, err := c.variable(s[i+1:])
			if err != nil {
				return "", err
			}
			out.WriteString(v)
			i += n
		default:
			out.WriteByte(ch)
		}
		if out.Len() > maxText {
			return "", fmt.Errorf("longer than %d bytes when expanded", maxText)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf("a quote %c is not closed", quote)
	}
	if *c.grown += out.Len(); *c.grown > maxGrown {
		return "", fmt.Errorf("all words together are longer than %d bytes when expanded", maxGrown)
	}
	return out.String(), nil
}

// variable expands what follows a dollar sign and says how many bytes of s that was.
func (c *Config) variable(s string) (value string, n int, err error) {
	if !strings.HasPrefix(s, "{") {
		n = nameLength(s)
		if n == 0 {
			return "$", 0, nil
		}
		value, _ = c.lookup(s[:n])
		return value, n, nil
	}
	end := closing(s)
	if end < 0 {
		return "", 0, fmt.Errorf("${ without }")
	}
	inner := s[1:end]
	k := nameLength(inner)
	if k == 0 {
		return "", 0, fmt.Errorf("${%s}: bad substitution", inner)
	}
	value, set := c.lookup(inner[:k])
	switch rest := inner[k:]; {
	case rest == "":
		return value, end + 1, nil
	case strings.HasPrefix(rest, ":-") || strings.HasPrefix(rest, "-"):
		if !set || value == "" && rest[0] == ':' {
			value, err = c.expand(strings.TrimPrefix(rest, ":")[1:])
		}
	case strings.HasPrefix(rest, ":+") || strings.HasPrefix(rest, "+"):
		if !set || value == "" && rest[0] == ':' {
			return "", end + 1, nil
		}
		value, err = c.expand(strings.TrimPrefix(rest, ":")[1:])
	default:
		return "", 0, fmt.Errorf("${%s}: unsupported modifier: use ${NAME:-word} or ${NAME:+word}", inner)
	}
	return value, end + 1, err
}

// closing finds the brace that ends the one s begins with; one in another belongs to it.
func closing(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '{':
			if depth++; depth > 16 {
				return -1
			}
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// nameLength is how many bytes at the beginning of s are a variable's name.
func nameLength(s string) int {
	n := 0
	for n < len(s) {
		ch := s[n]
		if ch == '_' || 'a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || n > 0 && '0' <= ch && ch <= '9' {
			n++
			continue
		}
		break
	}
	return n
}
