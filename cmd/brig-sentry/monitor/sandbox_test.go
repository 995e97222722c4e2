package monitor

import (
	"io"
	"testing"
)

// TestDied: an error names the reason of a Sentry that crashed, and stays as it is where none did.
func TestDied(t *testing.T) {
	for words, want := range map[string]string{
		"": "EOF",
		"panic: runtime error: nil pointer dereference\n[signal SIGSEGV]\n\ngoroutine 42 [running]:\n": "EOF: the Sentry crashed: panic: runtime error: nil pointer dereference",
	} {
		if got := died(io.EOF, words).Error(); got != want {
			t.Errorf("%q: %s, want %s", words, got, want)
		}
	}
}
