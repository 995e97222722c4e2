package monitor

import (
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
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

// TestShort: what gVisor says is bounded, and stays text.
func TestShort(t *testing.T) {
	if got := short(io.EOF); got != "EOF" {
		t.Error(got)
	}
	if got := short(errors.New("x" + strings.Repeat("é", maxReason))); len(got) > maxReason+len("…") || !strings.HasSuffix(got, "é…") || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
