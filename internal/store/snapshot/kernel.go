package snapshot

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readsWhole reports whether a kernel of a release, as of uname(2), gives files of an image that is mounted from a file their content or an error, also to who reads
// after another reader was killed. Until commit "erofs: set fileio bio failed in short read case" of Linux 7.0 a read that SIGKILL cut short left zeros in the page cache, for
// everybody. Of the older series that took it over 6.18.44 is known: readers that were killed in the middle of a throttled read left nothing wrong there.
func readsWhole(release string) bool {
	switch x, y, z := version(release); {
	case x >= 7:
		return true
	case x == 6 && y == 18:
		return z >= 44
	}
	return false
}

// refers reports whether overlays of a user namespace may have a layer of data: since "ovl: relax redirect/metacopy requirements for lower -> data redirect" of Linux 6.16.
func refers(release string) bool {
	x, y, _ := version(release)
	return x > 6 || x == 6 && y >= 16
}

// version are the numbers of a release.
func version(release string) (x, y, z int) {
	number := func(s string) int {
		end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if end >= 0 {
			s = s[:end]
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		return n
	}
	major, rest, _ := strings.Cut(release, ".")
	minor, patch, _ := strings.Cut(rest, ".")
	return number(major), number(minor), number(patch)
}

// release is this kernel's.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
