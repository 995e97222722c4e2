// Package wire is what a box and the monitor in it know of each other: where things are in the box, and the arguments that the monitor is executed with. It links nothing, so
// that a monitor may be built of anything.
package wire

import (
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Places in the box.
const (
	ProgramPath = "/box/monitor"     // the monitor's program
	ConfigPath  = "/box/config.json" // the user's OCI configuration
	RootPath    = "/rootfs"          // the user's tree, with all that is bind-mounted into it
	RunDir      = "/run"             // empty, for the monitor's sockets
	RestoreDir  = "/box/checkpoint"  // with CheckpointName in it: what the monitor is to start from
	ToldPath    = "/proc/self/comm"  // the name that the monitor dies with tells the keeper what he cannot see: ToldOOM and the like
)

// BundleName is the name of the folder that is a box's bundle.
const BundleName = "box"

// What a monitor tells of the end inside, of which the box's control group knows nothing: that memory ran out, that it failed after it had come to its limit of processes, or that what
// it ran in has ended, and it with that; or, with its number behind it, the signal that ended it, of which the first process of a PID namespace cannot die.
const (
	ToldOOM     = "oom"
	ToldCrowded = "crowded"
	ToldLost    = "lost"
	ToldSignal  = "signal "
)

// SignalOf is the signal that a monitor which ended with that exit status has told; 0: none.
func SignalOf(told string, code int) int {
	number, ok := strings.CutPrefix(told, ToldSignal)
	if n, err := strconv.Atoi(number); ok && err == nil && n > 0 && n <= 64 && code == 128+n {
		return n
	}
	return 0
}

// Arguments that the monitor is executed with.
const (
	ArgRun  = "run"  // as the first process
	ArgExec = "exec" // once more, in a process of its own, to run inside what AskedExec says
)

// AskProcesses asks for the processes inside: a list of proc.Process as JSON comes on the standard output.
const AskProcesses = "processes"

// AskForget asks whoever keeps for a while what it has seen of the container's files to look at them anew: they were changed from outside.
const AskForget = "forget"

// execVar begins the names of the environment variables with the process that an ArgExec is about, an Exec as JSON. One holds no more than 128 KiB (MAX_ARG_STRLEN of execve(2)), so
// there is one for each execPart bytes, numbered from 0.
const (
	execVar  = "BRIG_EXEC"
	execPart = 96 << 10
	// MaxExec is the most bytes of an Exec as JSON.
	MaxExec = 8 << 20
)

// ExecEnviron is the part of an environment that asks for an Exec, given as JSON. Boxes of older Brigs read the variable without a number.
func ExecEnviron(exec []byte) (env []string) {
	n := 0
	for part := range slices.Chunk(exec, execPart) {
		env = append(env, execVar+strconv.Itoa(n)+"="+string(part))
		n++
	}
	if n == 1 {
		env = append(env, execVar+"="+string(exec))
	}
	return env
}

// AskedExec puts together what ExecEnviron has taken apart; getenv is os.Getenv.
func AskedExec(getenv func(string) string) []byte {
	var exec []byte
	for i := 0; ; i++ {
		part := getenv(execVar + strconv.Itoa(i))
		if part == "" {
			return exec
		}
		exec = append(exec, part...)
	}
}

// Exec is one more process for what is in a box, or something else that a monitor is asked for.
type Exec struct {
	Process *specs.Process `json:"process"`
	User    string         `json:"user,omitempty"` // to be looked up inside, with more groups behind commas; empty: the process's own numbers
	Ask     string         `json:"ask,omitempty"`  // AskCheckpoint, AskProcesses, AskForget; empty: a process
}

// A monitor may leave ArgExec to brig-oci (internal/runtime/boxed/join), which is small: it then takes further processes at JoinSocket, of type SOCK_SEQPACKET. The first message of a
// connection is one byte with four descriptors: the three standard streams, and a file with an Exec as JSON, at most MaxExec bytes, from its beginning on; each further one is one byte,
// the number of a signal. The answer is one Outcome, when the process has ended or could not be started. Who asked may go before: then the process inside is killed, for it is one.
const (
	JoinPath   = "/box/join"           // brig-oci
	JoinSocket = RunDir + "/join.sock" // of the monitor
	JoinFiles  = 4                     // descriptors with the first message
	MaxOutcome = 64 << 10              // bytes
)

// Outcome is how a further process ended.
type Outcome struct {
	Status uint32 // as wait(2) gives it
	Error  string // why it was not started; empty: it was
	Code   uint32 // the exit status that goes with Error
}

// Encode writes an outcome as a message.
func (o Outcome) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, o.Status)
	b = binary.LittleEndian.AppendUint32(b, o.Code)
	return append(b, o.Error...)
}

// DecodeOutcome reads what Encode wrote.
func DecodeOutcome(b []byte) (Outcome, error) {
	if len(b) < 8 {
		return Outcome{}, errors.New("the monitor's answer is too short")
	}
	return Outcome{Status: binary.LittleEndian.Uint32(b), Code: binary.LittleEndian.Uint32(b[4:]), Error: string(b[8:])}, nil
}

// Begun is what a monitor says, once, on descriptor TellFD, a socket of type SOCK_SEQPACKET, when its box asks for that (oci.AnnotationTells): that the process inside runs, or why not.
// The runtime's own child speaks there before the monitor does: its messages begin with a number that is not begunMark.
type Begun struct {
	Code uint32 // docker's exit status for Why: 125, 126, 127
	Why  string // empty: it runs
}

// TellFD is the descriptor on which a monitor says that it has begun, and MaxBegun the length of that in bytes.
const (
	TellFD   = 3
	MaxBegun = 4 << 10
)

const begunMark = ^uint32(0)

// Encode writes what a monitor says as a message.
func (t Begun) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, begunMark)
	b = binary.LittleEndian.AppendUint32(b, t.Code)
	return append(b, t.Why[:min(len(t.Why), MaxBegun-len(b))]...)
}

// DecodeBegun reads what Encode wrote; false: it is something else.
func DecodeBegun(b []byte) (Begun, bool) {
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != begunMark {
		return Begun{}, false
	}
	return Begun{binary.LittleEndian.Uint32(b[4:]), string(b[8:])}, true
}

// Bound reports whether a mount of the user's brings in something of the host's: then it is in the box, below RootPath. All others the level makes by itself, inside.
func Bound(m *specs.Mount) bool {
	switch m.Type {
	case "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2":
		return slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	}
	return !OfInfra(m)
}
