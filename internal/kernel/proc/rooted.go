package proc

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Of processes that no control group and no PID namespace holds together one thing is left to tell them by: their root. A process gets out of the
// root that it was born in only with CAP_SYS_CHROOT or by joining another mount namespace, and its children are where it is.

// rootedLimit is how long KillRooted tries.
const rootedLimit = 10 * time.Second

// Rooted lists the processes whose root is the mount at place, or lies in it or in what is mounted below it; none where nothing is mounted there. That of a
// copy of the mount, in another mount namespace, counts.
func Rooted(place string) ([]int, error) {
	in, err := rootedIn(place)
	if err != nil || in == nil {
		return nil, err
	}
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && in(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// rootedIn returns what tells of a process whether its root is there; nil where nothing is mounted.
func rootedIn(place string) (func(pid int) bool, error) {
	mounts, err := mountsBelow(place)
	if err != nil || len(mounts) == 0 {
		return nil, err
	}
	var top unix.Stat_t
	if err := unix.Stat(place, &top); err != nil {
		return nil, &os.PathError{Op: "stat", Path: place, Err: err}
	}
	var fs unix.Statfs_t
	own := unix.Statfs(place, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC // a folder of the host's that is bound may be the root of others
	return func(pid int) bool {
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/root", 0, unix.STATX_MNT_ID|unix.STATX_INO, &st) != nil { // it has ended, or it is a thread of the kernel
			return false
		}
		return mounts[st.Mnt_id] || own && st.Ino == top.Ino && unix.Mkdev(st.Dev_major, st.Dev_minor) == top.Dev
	}, nil
}

// mountsBelow are the numbers of the mounts at a place and below it.
func mountsBelow(place string) (map[uint64]bool, error) {
	above, err := filepath.EvalSymlinks(filepath.Dir(place)) // the table has no links in it
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	place = filepath.Join(above, filepath.Base(place))
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var ids map[uint64]bool
	for line := range bytes.Lines(table) { // ID parent major:minor root place …: proc_pid_mountinfo(5)
		f := bytes.Fields(line)
		if len(f) < 5 {
			continue
		}
		at := unescape.Replace(string(f[4]))
		if at != place && !strings.HasPrefix(at, place+"/") {
			continue
		}
		if id, err := strconv.ParseUint(string(f[0]), 10, 64); err == nil {
			if ids == nil {
				ids = map[uint64]bool{}
			}
			ids[id] = true
		}
	}
	return ids, nil
}

// KillRooted ends all processes that Rooted lists, whatever they fork, for 10 s at most; then api.Unavailable names who is left.
func KillRooted(place string) error {
	for deadline := time.Now().Add(rootedLimit); ; time.Sleep(2 * time.Millisecond) {
		pids, err := Rooted(place)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return api.Errorf(api.Unavailable, "processes %v in %s do not die: /proc/PID/stack says what the kernel waits for", pids, place)
		}
		in, err := rootedIn(place)
		if err != nil || in == nil {
			return err
		}
		// First they all stand still, so that none forks while others are looked for; then they die.
		for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
			for _, pid := range pids {
				if err := signalRooted(pid, sig, in); err != nil {
					return api.Errorf(api.Unavailable, "signal %d to process %d: %w", sig, pid, err)
				}
			}
		}
	}
}

// signalRooted sends a signal to a process that is still the one that was found: once its descriptor is open its number cannot become another's.
func signalRooted(pid int, sig unix.Signal, in func(int) bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		if !in(pid) {
			return nil
		}
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
