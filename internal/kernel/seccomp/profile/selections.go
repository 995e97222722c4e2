//go:build amd64 || arm64

package profile

// Selections of the default profile's rules that programs are made ahead for; TestPrecompiled says what they must be.
const (
	selectionDefault = 0x25400
	selectionNone    = 0x25000
)
