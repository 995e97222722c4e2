// Package policyfile finds the signature policy of this machine, and tells whether a file that a decision rests on is still what it was.
// It does not read the policy: that takes cryptography and is package trust's, which only brig-image links. A run of an image that is
// there asks no more than this package can say.
package policyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The places of containers-policy.json(5): the user's comes before the system's.
const (
	System = "/etc/containers/policy.json"
	user   = "/.config/containers/policy.json" // below $HOME
)

// Find returns the policy that counts: given, or that of the user, or the system's; empty where there is none. That there is none at a
// given place is an error, and so is a place that cannot be looked at: a policy that cannot be read is not one that accepts.
func Find(given string) (string, error) {
	places := []string{System}
	if home := os.Getenv("HOME"); home != "" {
		places = []string{home + user, System}
	}
	if given != "" {
		places = []string{given}
	}
	for _, p := range places {
		var st unix.Stat_t
		switch err := stat(p, &st); {
		case err == nil:
			return p, nil
		case given != "" || !errors.Is(err, fs.ErrNotExist) && err != unix.ENOTDIR:
			return "", fmt.Errorf("signature policy %s: %w", p, err)
		}
	}
	return "", nil
}

// Stamp tells one state of a file from another, without reading it.
func Stamp(path string) (string, error) {
	var st unix.Stat_t
	if err := stat(path, &st); err != nil {
		return "", err
	}
	return stamp(&st), nil
}

// StampOf is the stamp of an open file.
func StampOf(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	return stamp(&st), nil
}

// stamp has the change time beside that of the last write: a tool can set the latter.
func stamp(st *unix.Stat_t) string {
	b := make([]byte, 0, 96)
	for i, n := range []int64{int64(st.Ino), st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec} {
		if i > 0 {
			b = append(b, '.')
		}
		b = strconv.AppendInt(b, n, 36)
	}
	return string(b)
}

func stat(path string, st *unix.Stat_t) error {
	for {
		err := unix.Stat(path, st)
		if err != unix.EINTR {
			return err
		}
	}
}
