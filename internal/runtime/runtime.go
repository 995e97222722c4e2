// Package runtime is the boundary: the three interfaces that every isolation level is a driver of.
//
// The sandbox comes first. A lone container is a sandbox of one, a pod a sandbox of several, a virtual machine is a sandbox. A driver
// opens it on a link that the network made, adds bundles whose root file system the store made, and starts them. Drivers are
// blind to each other and to store, network and image: what they need comes as nouns of package api.
//
// A sandbox outlives the process that opened it. Find takes it up again, from another process, by its ID and folder.
package runtime

import (
	"context"
	"io"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/proc"
)

// Driver is one isolation level.
type Driver interface {
	Name() string
	Needs() Needs
	// Open makes the sandbox. What it made is gone again when it returns an error.
	Open(ctx context.Context, spec api.SandboxSpec) (Sandbox, error)
	// Find takes up a sandbox that another process opened; api.NotFound when it is gone.
	Find(ctx context.Context, spec api.SandboxSpec) (Sandbox, error)
}

// InitPause, in place of a command, makes `brig-oci init` wait until it is asked to end: what the infra container of a pod does.
const InitPause = "--pause"

// Needs says in which form a driver takes what the other rooms make.
type Needs struct {
	RootBlock bool // root file system as a block device instead of a folder
	Tap       bool // network as a tap instead of a namespace
}

// Bundle is an OCI bundle and the file systems that make up its root.
type Bundle struct {
	ID   string      // of the container
	Dir  string      // folder with config.json
	Root []api.Mount // mounted in order to become the root; empty: root.path of config.json as it is
	Log  LogSpec

	Health    HealthSpec
	Stdin     bool     // keep standard input open
	StdinOnce bool     // it ends with the first client that had it
	ExitPath  string   // where the exit status is kept, before it is told to anybody
	Durable   bool     // the exit status must survive a power cut
	Reap      []string // command that cleans up when the opener is gone

	Files []int // descriptors that the process gets as 3 and on, at most MostFiles; they stay the caller's

	Restore string // a checkpoint that the container goes on from, a file of a Checkpointer's, which no other driver takes; empty: it begins
}

// MostFiles is how many files a process can be given: as many as one message to its keeper carries, with some room (SCM_MAX_FD, unix(7)).
const MostFiles = 200

// HealthSpec says how a container is asked whether it is well, and how long it may run. The zero value does not ask, and lets it run for ever.
type HealthSpec struct {
	RunFor        time.Duration // from its start to SIGKILL; 0: for ever
	Process       *api.Process  // nil: it is not asked
	User          string        // looked up in the container
	Interval      time.Duration
	Timeout       time.Duration
	StartPeriod   time.Duration // failures in it do not count, until the first success
	StartInterval time.Duration // between probes in StartPeriod
	Retries       int           // failures in a row that make it unhealthy
	OnFailure     string        // api.UnhealthyKill, UnhealthyRestart or UnhealthyStop; empty: nothing is done
	StopSignal    syscall.Signal
	StopTimeout   time.Duration // from StopSignal to SIGKILL; negative: for ever
}

// LogSpec says where a container's output is kept. The zero value keeps none.
type LogSpec struct {
	Driver   string // api.LogJSONFile (also empty), LogK8sFile, LogJournald or LogSyslog
	Path     string // of a file, or of a socket of datagrams
	MaxSize  int64  // of a file, bytes before a rotation; 0: never
	MaxFiles int    // files kept, the current one among them
	// UDP is where syslog's datagrams go instead of Path: ADDRESS:PORT, the address a number.
	UDP      string
	Tag      string // syslog: of every message; journald: the fields of every entry, NAME=VALUE, each ended by a newline
	Facility int    // syslog
}

// Sandbox is an open boundary.
type Sandbox interface {
	// Add makes a container in the sandbox, up to the point where its process would be executed.
	Add(ctx context.Context, b Bundle) (Container, error)
	Find(ctx context.Context, id string) (Container, error)
	// Close ends whatever runs in the sandbox and frees it. It may be called again.
	Close(ctx context.Context) error
}

// Container is a container in a sandbox.
type Container interface {
	// Start executes the container's process. api.CommandNotFound and api.CommandNotRunnable say why it could not.
	Start(ctx context.Context) error
	// Exec runs one more process and waits for it.
	Exec(ctx context.Context, p api.Process, io api.Stdio) (api.Exit, error)
	Signal(ctx context.Context, sig syscall.Signal) error
	// Wait returns when the container's first process has ended, however long ago.
	Wait(ctx context.Context) (api.Exit, error)
	Delete(ctx context.Context) error
}

// Owned is a sandbox that cleans up by itself, with Bundle.Reap, when its opener goes without having done so.
type Owned interface {
	// Done tells that the opener has cleaned up, but for the folders in trash: whoever keeps the sandbox removes them, at leisure.
	Done(trash ...string) error
	// Drain returns when whoever keeps the sandbox has ended.
	Drain(ctx context.Context) error
	// Leave lets the sandbox live on by itself.
	Leave() error
}

// Runner is a sandbox that makes a container and executes its process in one step.
type Runner interface {
	// Run is Add and Container.Start; the stream has the output from its first byte.
	Run(ctx context.Context, b Bundle, s Streams) (Stream, error)
}

// Keeper is a sandbox that keeps a container which was added, and not started, when its opener leaves: [Starter] starts it.
type Keeper interface {
	Keep(ctx context.Context, id string) error
}

// Starter is a container that was kept before its start.
type Starter interface {
	// StartKept is Container.Start from any process; the stream has the output from its first byte.
	StartKept(ctx context.Context, s Streams) (Stream, error)
}

// Streams says which of a process's streams a client wants.
type Streams struct {
	Stdin, Stdout, Stderr bool
}

// Stream is a client's live connection to a process.
type Stream interface {
	Input(b []byte) error
	CloseInput() error
	Resize(w api.WindowSize) error
	// Wait copies output until the process has ended and returns how. A nil writer drops that stream.
	Wait(ctx context.Context, stdout, stderr io.Writer) (api.Exit, error)
	Close() error
}

// Pauser is a container whose processes can be made to stand still, all at once.
type Pauser interface {
	// Pause returns when all processes stand; api.Unavailable, and they run again, where that does not come about.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Paused() (bool, error)
}

// Checkpointer is a container that can write down what runs in it.
type Checkpointer interface {
	// Checkpoint writes the state of all processes to w. They stand still until saved, which is called when all of it is written, has returned, and run on if they were not killed meanwhile.
	Checkpoint(ctx context.Context, w io.Writer, saved func() error) error
}

// Updater is a container whose limits can be changed while it runs. What is nil stays as it is; device rules are not touched.
type Updater interface {
	Update(ctx context.Context, r *specs.LinuxResources) error
}

// Statser is a container that tells what it has used.
type Statser interface {
	Stats() (api.Usage, error)
}

// Lister is a container that tells its processes, by their numbers in the host's PID namespace.
type Lister interface {
	Pids() ([]int, error)
}

// Inner is a container whose processes are not the host's.
type Inner interface {
	// Processes are those inside, with the numbers that they have there, as far as its kernel tells; api.Unsupported where it does not.
	Processes(ctx context.Context) ([]proc.Process, error)
}

// Forgetter is a container that may keep for a while what it has seen of its files.
type Forgetter interface {
	// Forget has it look at them anew.
	Forget(ctx context.Context) error
}

// Attacher is a container whose streams clients can join.
type Attacher interface {
	Attach(ctx context.Context, s Streams) (Stream, error)
	// ExecAttached runs one more process. Without a stream wanted it runs on by itself.
	ExecAttached(ctx context.Context, x Exec, s *Streams) (Stream, error)
}

// Exec is one more process for a running container.
type Exec struct {
	Process api.Process
	User    string // looked up in the container; empty: the process's own
	Tools   string // a folder of the host that the process, and nothing else, sees in the container; empty: none
	Files   []int  // as in Bundle
}
