package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"brig/internal/base/rootless"
)

// mostFDs is how many descriptors a process can be given: runtime.MostFiles.
const mostFDs = 200

// preserveFDs declares --preserve-fds and returns what finds the descriptors.
func preserveFDs(f *pflag.FlagSet) func() ([]int, error) {
	n := 0
	parsed(f, "preserve-fds", "", "uint", "Pass a number of additional file descriptors, from 3 on, into the container", assign(&n, func(v string) (int, error) {
		n, err := strconv.ParseUint(v, 10, 31)
		if err == nil && n > mostFDs {
			err = fmt.Errorf("%d is the most", mostFDs)
		}
		return int(n), err
	}))
	return func() (fds []int, err error) {
		for fd := 3; fd < 3+n; fd++ {
			// What this program has opened itself is closed when it executes another, but for its place in the user namespace.
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 || fd == rootless.Membership() {
				return nil, fmt.Errorf("file descriptor %d is not available - the preserve-fds option requires that file descriptors must be passed", fd)
			}
			fds = append(fds, fd)
		}
		for _, fd := range fds { // no helper's
			unix.CloseOnExec(fd)
		}
		return fds, nil
	}
}
