package remote

import (
	"net/http"
	"strings"
)

// challenge is what a registry wants of who asks: the WWW-Authenticate header of RFC 9110, section 11.6.1.
type challenge struct {
	scheme string            // in lower case: basic, bearer
	params map[string]string // names in lower case
}

const (
	maxChallenges = 16 // that are looked at in one answer
	maxParams     = 32 // of one
)

// choose finds the challenge to answer: a token server's if there is one, else basic; nil: none that Brig knows.
func choose(h http.Header) *challenge {
	var basic *challenge
	for _, c := range challenges(h) {
		switch {
		case c.scheme == "bearer" && c.params["realm"] != "":
			return &c
		case c.scheme == "basic" && basic == nil:
			basic = &c
		}
	}
	return basic
}

// challenges reads all of a header's. A field may hold several, and commas stand between them as between the parameters of one: a word
// that no = follows begins the next. What does not fit the grammar ends its field.
func challenges(h http.Header) []challenge {
	var all []challenge
	for _, field := range h.Values("WWW-Authenticate") {
		p := lexer{s: field}
		var now *challenge
		for len(all) < maxChallenges {
			p.skip(" \t,")
			word := p.token()
			if word == "" {
				break
			}
			if val, ok := p.value(); ok && now != nil {
				if len(now.params) < maxParams {
					now.params[strings.ToLower(word)] = val
				}
				continue
			} else if ok {
				break // a parameter of nothing
			}
			all = append(all, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			now = &all[len(all)-1]
		}
	}
	return all
}

// lexer takes a header's value apart.
type lexer struct{ s string }

func (p *lexer) skip(set string) { p.s = strings.TrimLeft(p.s, set) }

// token takes a token of RFC 9110, section 5.6.2.
func (p *lexer) token() string {
	i := 0
	for i < len(p.s) && (p.s[i] >= '0' && p.s[i] <= '9' || p.s[i] >= 'A' && p.s[i] <= 'Z' || p.s[i] >= 'a' && p.s[i] <= 'z' || strings.IndexByte("!#$%&'*+-.^_`|~", p.s[i]) >= 0) {
		i++
	}
	t := p.s[:i]
	p.s = p.s[i:]
	return t
}

// value takes = and a token or a quoted string. It is not ok, and takes nothing, where no = follows.
func (p *lexer) value() (string, bool) {
	rest := strings.TrimLeft(p.s, " \t")
	if !strings.HasPrefix(rest, "=") {
		return "", false
	}
	p.s = strings.TrimLeft(rest[1:], " \t")
	if !strings.HasPrefix(p.s, `"`) {
		// Addresses come without quotes too, though they are no tokens.
		i := strings.IndexAny(p.s, " \t,")
		if i < 0 {
			i = len(p.s)
		}
		v := p.s[:i]
		p.s = p.s[i:]
		return v, true
	}
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String(), true
		case c == '\\' && i+1 < len(p.s):
			i++
			b.WriteByte(p.s[i])
		default:
			b.WriteByte(c)
		}
	}
	p.s = "" // never closed
	return b.String(), true
}
