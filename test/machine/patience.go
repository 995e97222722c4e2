package machine

import (
	"os"
	"strconv"
	"time"
)

// SlowEnv says how many times slower than its developers' this machine is, where it is emulated (test/guest).
const SlowEnv = "BRIG_TEST_SLOW"

// Patience is how long to wait here for what elsewhere takes less than d.
func Patience(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv(SlowEnv)); err == nil && n > 1 {
		d *= time.Duration(n)
	}
	return d
}
