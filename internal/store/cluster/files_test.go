package cluster

import "testing"

// TestOctal: numbers of headers, of whatever program.
func TestOctal(t *testing.T) {
	for field, want := range map[string]int64{
		"00000001750\x00":  1000,
		"       1750 ":     1000,
		"1750 \x00\x00":    1000,
		"\x00\x00\x00":     0,
		"\x80\x00\x00\x01": 1,
		"\x80\x00\x01\x00": 256,
		"00000001758\x00":  -1,
		"\xff\xff\xff\xff": -1,
		"\x80" + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff": -1,
	} {
		if got, ok := octal([]byte(field)); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v", field, got, ok)
		}
	}
}
