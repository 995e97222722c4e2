// Package wire is what a box and the monitor in it know of each other: where things are in the box, and the arguments that the monitor is executed with. It links nothing, so
// that a monitor may be built of anything.
package wire

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Places in the box.
const (
	ProgramPath = "/box/monitor"     // the monitor's program
	ConfigPath  = "/box/config.json" // the user's OCI configuration
	RootPath    = "/rootfs"          // the user's tree, with all that is bind-mounted into it
	RunDir      = "/run"             // empty, for the monitor's sockets
)

// Arguments that the monitor is executed with.
const (
	ArgRun  = "run"  // as the first process
	ArgExec = "exec" // once more, in a process of its own, to run what ExecVar says inside
)

// ExecVar is the environment variable with the process that an ArgExec is about, an Exec as JSON.
const ExecVar = "BRIG_EXEC"

// Exec is one more process for what is in a box.
type Exec struct {
	Process *specs.Process `json:"process"`
	User    string         `json:"user,omitempty"` // to be looked up inside, with more groups behind commas; empty: the process's own numbers
}

// Bound reports whether a mount of the user's brings in something of the host's: then it is in the box, below RootPath. All others the level makes by itself, inside.
func Bound(m *specs.Mount) bool {
	switch m.Type {
	case "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2":
		return slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	}
	return true
}
