package ns

import (
	"testing"

	"brig/internal/kernel/cgroup"
)

func TestTraffic(t *testing.T) {
	in, out := traffic(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    9999      10    0    0    0     0          0         0     9999      10    0    0    0     0       0          0
  eth0:    1000       9    0    0    0     0          0         0      200       7    0    0    0     0       0          0
  eth1:       1       9    0    0    0     0          0         0        2       7    0    0    0     0       0          0
`)
	if in != 1001 || out != 202 {
		t.Errorf("%d in, %d out", in, out)
	}
}

// TestWorkingSet has both versions of control groups.
func TestWorkingSet(t *testing.T) {
	for _, c := range []struct {
		raw  map[string]uint64
		want uint64
	}{
		{map[string]uint64{"total_inactive_file": 30, "inactive_file": 1}, 70},
		{map[string]uint64{"inactive_file": 40}, 60},
		{map[string]uint64{"inactive_file": 200}, 100},
		{nil, 100},
	} {
		if got := workingSet(&cgroup.Memory{Usage: cgroup.MemoryEntry{Usage: 100}, Raw: c.raw}); got != c.want {
			t.Errorf("%v: %d, want %d", c.raw, got, c.want)
		}
	}
}
