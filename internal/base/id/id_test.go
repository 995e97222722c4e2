package id

import (
	"strings"
	"testing"
)

func TestNewIsValidAndNew(t *testing.T) {
	seen := map[string]bool{}
	for range 5000 {
		s := New()
		if !Valid(s) || seen[s] {
			t.Fatalf("%q: valid %v, seen before %v", s, Valid(s), seen[s])
		}
		seen[s] = true
		if strings.Trim(s[:12], "0123456789") == "" {
			t.Errorf("the short form of %s is a number", s)
		}
	}
}

func TestValidAndPrefix(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct {
		s             string
		valid, prefix bool
	}{
		{whole, true, true},
		{whole[:63], false, true},
		{whole + "0", false, false},
		{"", false, false},
		{"a", false, true},
		{"A", false, false},
		{"g", false, false},
		{strings.ToUpper(whole), false, false},
		{whole[:63] + "/", false, false},
		{whole[:62] + "é", false, false}, // 64 bytes
		{"../../../etc", false, false},
	} {
		if Valid(c.s) != c.valid || Prefix(c.s) != c.prefix {
			t.Errorf("%q: valid %v, prefix %v; want %v, %v", c.s, Valid(c.s), Prefix(c.s), c.valid, c.prefix)
		}
	}
}
