// Package rootless tells a process whether it works for a normal user's Brig, in a user namespace in which that user is root.
//
// So it is with a Brig that root started in a user namespace, in a container that runs containers: it is nested, and what the kernel keeps for root of the
// machine is not there for it either. Its network and control groups are its own to rule, and it keeps nobody's namespace alive.
//
// Who makes that namespace says so in the environment (internal/kernel/userns and internal/engine/rootless.go), since nothing else tells a root
// user of it from the machine's without asking the kernel, which each start of a Brig that belongs to root would pay for.
package rootless

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Env is the variable: the user's id outside, a colon, and the descriptor that Membership returns.
const Env = "BRIG_USERNS"

// nested is the variable's value in a Brig that is.
const nested = "nested"

// Active reports whether this is a normal user's Brig, or a nested one.
func Active() bool { return User() || Nested() }

// User reports whether this is a normal user's Brig.
func User() bool {
	_, ok := UID()
	return ok
}

// Nested reports whether this is a Brig of root's in a user namespace. It is so from the call of Look on, and in the processes that are given Environ.
func Nested() bool { return os.Getenv(Env) == nested }

// initUserNS is the number of the machine's own user namespace: PROC_USER_INIT_INO of linux/proc_ns.h, the same since Linux 3.8.
const initUserNS = 0xEFFFFFFD

// Look finds out whether root's Brig is nested. It costs one look at /proc.
func Look() {
	var st unix.Stat_t
	if !User() && unix.Stat("/proc/self/ns/user", &st) == nil && st.Ino != initUserNS {
		os.Setenv(Env, nested) //nolint:errcheck // it is a good name and value
	}
}

// Environ is what a process is told that is to work as this one does; fd is what its Membership shall be.
func Environ(fd int) []string {
	if uid, ok := UID(); ok {
		return []string{Variable(uid, fd)}
	}
	if Nested() {
		return []string{Env + "=" + nested}
	}
	return nil
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
