//go:build !amd64 && !arm64

package profile

// No programs are made ahead for architectures that package seccomp has no table of.
const (
	selectionDefault, selectionNone = 0, 0
	programDefault, programNone     = "", ""
)
