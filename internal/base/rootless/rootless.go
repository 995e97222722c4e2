// Package rootless tells a process whether it works for a normal user's Brig, in a user namespace in which that user is root.
//
// Who makes that namespace says so in the environment (internal/kernel/userns and internal/engine/rootless.go), since nothing else tells a root
// user of it from the machine's without asking the kernel, which each start of a Brig that belongs to root would pay for.
package rootless

import (
	"os"
	"strconv"
	"strings"
)

// Env is the variable: the user's id outside, a colon, and the descriptor that Membership returns.
const Env = "BRIG_USERNS"

// Active reports whether this is a normal user's Brig.
func Active() bool {
	_, ok := UID()
	return ok
}

// UID is the user's id outside of the namespace.
func UID() (int, bool) {
	uid, _, ok := parse(os.Getenv(Env))
	return uid, ok
}

// Membership is the descriptor by which brig holds its place among the members of the user namespace; -1 without one. To close it, or any other
// descriptor of that file, is to give the place up: fcntl_locking(2).
func Membership() int {
	_, fd, ok := parse(os.Getenv(Env))
	if !ok {
		return -1
	}
	return fd
}

// Variable is the variable with its value for a process whose Membership is fd.
func Variable(uid, fd int) string { return Env + "=" + strconv.Itoa(uid) + ":" + strconv.Itoa(fd) }

func parse(value string) (uid, fd int, ok bool) {
	u, f, ok := strings.Cut(value, ":")
	if !ok {
		return 0, 0, false
	}
	uid, err := strconv.Atoi(u)
	if err != nil || uid <= 0 {
		return 0, 0, false
	}
	fd, err = strconv.Atoi(f)
	return uid, fd, err == nil && fd > 2
}
