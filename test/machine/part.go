package machine

import (
	"os"
	"strconv"
	"strings"
)

// PartEnv says which part of its tests a program is to run, as "2/8", where several machines share them out (test/guest).
const PartEnv = "BRIG_TEST_PART"

// part is the number of this part, from 0 on, of n.
func part() (k, n int) {
	of, all, _ := strings.Cut(os.Getenv(PartEnv), "/")
	k, err := strconv.Atoi(of)
	n, err2 := strconv.Atoi(all)
	if err != nil || err2 != nil || k < 1 || k > n {
		return 0, 1
	}
	return k - 1, n
}

// Share is this part's of a list.
func Share[T any](list []T) (share []T) {
	k, n := part()
	for i := k; i < len(list); i += n {
		share = append(share, list[i])
	}
	return share
}

// First reports whether this is the part that runs what cannot be shared out.
func First() bool {
	k, _ := part()
	return k == 0
}
