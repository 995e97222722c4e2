// Package id makes container and sandbox IDs.
package id

import (
	"encoding/hex"

	"golang.org/x/sys/unix"
)

// Len is the length of an ID: 32 random bytes in hexadecimal, as docker's.
const Len = 64

// New makes an ID. Like docker's, its first twelve digits are never all decimal, so that they cannot be taken for a number.
func New() string {
	var b [Len / 2]byte
	for {
		for n := 0; n < len(b); {
			m, err := unix.Getrandom(b[n:], 0)
			if err != nil && err != unix.EINTR {
				panic("getrandom: " + err.Error()) // the kernel documents no other failure for a valid buffer
			}
			n += max(m, 0)
		}
		s := hex.EncodeToString(b[:])
		for _, c := range s[:12] {
			if c > '9' {
				return s
			}
		}
	}
}

// Valid reports whether s is a whole ID.
func Valid(s string) bool {
	if len(s) != Len {
		return false
	}
	return Prefix(s)
}

// Prefix reports whether s could be the beginning of an ID.
func Prefix(s string) bool {
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != "" && len(s) <= Len
}
