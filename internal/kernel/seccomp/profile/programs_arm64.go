package profile

import _ "embed"

// The program for docker's default capabilities, for the selection of rules that selectionDefault names.
//
//go:embed default_arm64.bin
var programDefault string

// The program for no capabilities at all.
//
//go:embed none_arm64.bin
var programNone string
