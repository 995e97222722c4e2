package monitor

import (
	"testing"
	"time"
)

func TestKHz(t *testing.T) {
	if ticks() == 0 {
		t.Skip("this processor has no time stamp counter that could be read")
	}
	begun := now()
	first := begun.khz()
	time.Sleep(20 * time.Millisecond)
	second := begun.khz()
	if first < 100_000 || first > 20_000_000 {
		t.Errorf("%d kHz", first)
	}
	if off := float64(first) / float64(second); off < 0.99 || off > 1.01 {
		t.Errorf("%d kHz, then %d", first, second)
	}
}
