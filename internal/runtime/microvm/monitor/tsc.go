package monitor

import "time"

// stamp is a moment by two clocks. An emulated machine has the host's time stamp counter, and no other good clock: without its frequency, which a kernel finds out by
// a timer that QEMU emulates late, its time would go in steps of 10 ms.
type stamp struct {
	at    time.Time
	ticks uint64
}

func now() stamp { return stamp{time.Now(), ticks()} }

// khz is the frequency of the counter since then; 0: it is not known. Some milliseconds make it as good as 0.01 %.
func (s stamp) khz() uint64 {
	const least = 2 * time.Millisecond
	if d := time.Since(s.at); d < least {
		time.Sleep(least - d)
	}
	later := now()
	ns := later.at.Sub(s.at).Nanoseconds()
	if ns <= 0 || later.ticks <= s.ticks {
		return 0
	}
	return uint64(float64(later.ticks-s.ticks) / float64(ns) * 1e6)
}
