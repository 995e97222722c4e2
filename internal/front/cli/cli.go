// Package cli is the command line door: it translates docker's commands and flags to engine calls, and the engine's answers to
// docker's output and exit codes. It holds no state and knows no room but the engine.
//
// A command is one file, named after it: a constructor that declares flags, whose values are checked and translated while they are
// parsed (pflag calls a function per occurrence), and a run function. The constructors stand in one list, commands. Start-up time
// is a product feature, so only the command that was asked for is constructed; help, completion and a mistyped name construct all.
// For the same reason nothing is computed at package level.
//
// Exit codes are docker's: 125 for a flag that does not exist or does not parse, 1 for any other failure, but run ends with 125 for
// a failure of Brig's, 126 for a command that cannot be invoked, 127 for one that is not there, else with the container's own code.
// A command that a signal ended exits with 128 plus its number.
//
// While no session is open, SIGINT, SIGTERM and SIGHUP cancel the engine call in progress, which undoes what it had made. While a
// session is open they go to the container (see session.go). A terminal in raw mode is restored on every way out.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"brig/api"
)

// Engine is the part of the engine that the command line uses. Names are a container's name, ID or unique ID prefix; an image's
// reference, digest or ID.
type Engine interface {
	// Create makes a container without starting it; the progress of a pull goes to out.Stderr.
	Create(ctx context.Context, spec api.ContainerSpec, out api.Streams) (api.Container, error)
	// Start starts a container; with a == nil nothing is attached and the session is nil.
	// Init makes all of a container but the last step: its process executes its command when it is started.
	Init(ctx context.Context, id string) error
	Start(ctx context.Context, id string, a *api.Attach) (*api.Session, error)
	// Checkpoint saves what runs in a container under a name; Restore is Start of one that goes on from there. dir holds checkpoints; empty: the container's own.
	Checkpoint(ctx context.Context, name, checkpoint string, o api.CheckpointOptions) error
	Checkpoints(ctx context.Context, name, dir string) ([]string, error)
	RemoveCheckpoint(ctx context.Context, name, checkpoint, dir string) error
	Restore(ctx context.Context, name, checkpoint, dir string, a *api.Attach) (*api.Session, error)
	// Run is Create and Start in one.
	Run(ctx context.Context, spec api.ContainerSpec, a *api.Attach, out api.Streams) (api.Container, *api.Session, error)
	Attach(ctx context.Context, name string, a api.Attach) (*api.Session, error)
	// Stop asks a container to end, kills it when the time is up, and returns when it has ended.
	Stop(ctx context.Context, name string, o api.StopOptions) error
	// Restart is Stop and Start in one: a container with --rm is not removed in between.
	Restart(ctx context.Context, name string, o api.StopOptions) error
	Pause(ctx context.Context, name string) error
	Unpause(ctx context.Context, name string) error
	Rename(ctx context.Context, name, to string) error
	// Update changes the limits that are not zero.
	Update(ctx context.Context, name string, change api.Resources, restart *api.RestartPolicy) error
	// Stats tells what a container has used; the zero Usage for one that does not run.
	Stats(ctx context.Context, name string) (api.Container, api.Usage, error)
	// Top lists a container's processes; words are ps options or podman's descriptors.
	Top(ctx context.Context, name string, words []string) (api.ProcessList, error)
	// Diff tells what a container has changed of its image's files.
	Diff(ctx context.Context, name string) ([]api.Change, error)
	Kill(ctx context.Context, name string, signal string) error
	Remove(ctx context.Context, name string, force, volumes bool) error
	List(ctx context.Context) ([]api.Container, error)
	Inspect(ctx context.Context, name string) (api.Container, error)
	Logs(ctx context.Context, name string, o api.LogOptions, emit func(api.LogEntry) error) error
	Exec(ctx context.Context, name string, e api.ExecSpec, s api.Streams) (api.Exit, error)
	Wait(ctx context.Context, name string) (api.Exit, error)
	// Images returns, with an error of kind api.Corrupt, those whose records can be read.
	Images(ctx context.Context) ([]api.Image, error)
	InspectImage(ctx context.Context, name string) (api.Image, error)
	// ImageDetail is an image with what inspect and history tell of it.
	ImageDetail(ctx context.Context, name string) (api.ImageDetail, error)
	// Transfer pulls, pushes, copies, loads, saves or imports images, or speaks with a registry; progress goes to s.Stderr, a password comes from s.Stdin.
	Transfer(ctx context.Context, r api.TransferRequest, s api.Streams) (api.TransferReply, error)
	// RemoveImage returns lines "Untagged: …" and "Deleted: …".
	RemoveImage(ctx context.Context, name string, force bool) ([]string, error)
	Tag(ctx context.Context, source, target string) error
	// Untag takes names off an image, all of them where none is given.
	Untag(ctx context.Context, name string, names []string) error
	// Export writes a container's root file system as a tar to a file, or to s.Stdout.
	Export(ctx context.Context, name, file string, s api.Streams) error
	// Events hands over what happened to containers, and what happens, until ctx ends.
	Events(ctx context.Context, o api.EventOptions, emit func(api.Event) error) error
	// CopyFiles copies files between this machine and a container, or two.
	CopyFiles(ctx context.Context, from, to api.CopyPlace, followLink, archive bool, s api.Streams) error
	// Commit makes an image of a container.
	Commit(ctx context.Context, name string, o api.CommitOptions, s api.Streams) (api.Image, error)
	Info(ctx context.Context) (api.Info, error)
	// TryEscapes runs a container that tries to get out, and removes it.
	TryEscapes(ctx context.Context, spec api.ContainerSpec, out api.Streams) ([]api.Probe, error)
	// Why says why a container is as it is.
	Why(ctx context.Context, name string) (api.Why, error)
	// Boot starts what should run after a boot, Shutdown stops all; each is told of every container, also of one that failed.
	Boot(ctx context.Context, each func(api.Container, error)) error
	Shutdown(ctx context.Context, each func(api.Container, error)) error
	// Reap cleans up after a container that ended with nobody there to do it, and starts it again where its policy says so.
	Reap(ctx context.Context, id string) error
	// Metrics tells what containers and the store use, in this process's place.
	Metrics(ctx context.Context, r api.MetricsRequest) error
	// ServeRegistry serves the store as a registry, in this process's place: it returns only when that fails.
	ServeRegistry(ctx context.Context, r api.RegistryRequest) error
	// DiskUsage measures what the store takes.
	DiskUsage(ctx context.Context) (api.DiskUsage, error)
	// VMKernels are the kernels that virtual machines could have, in the order in which they are looked for.
	VMKernels(ctx context.Context) ([]api.VMKernel, error)
	// InstallVMKernel takes a kernel into the store. say is told what it is at.
	InstallVMKernel(ctx context.Context, from api.VMKernelSource, say func(string)) (api.VMKernel, error)
	// RemoveVMKernel takes it out.
	RemoveVMKernel(ctx context.Context) error
	// CreateVolume makes a volume, unless there is one of its name.
	CreateVolume(ctx context.Context, v api.Volume) (api.Volume, error)
	InspectVolume(ctx context.Context, name string) (api.Volume, error)
	Volumes(ctx context.Context) ([]api.Volume, error)
	// MountVolume and UnmountVolume have a volume's files be at its Mountpoint, or not: those of a volume with a size are a file system of their own.
	MountVolume(ctx context.Context, name string) (api.Volume, error)
	UnmountVolume(ctx context.Context, name string) (api.Volume, error)
	// GrowVolume makes a volume with a size hold more: size as in the option.
	GrowVolume(ctx context.Context, name, size string) (api.Volume, error)
	RemoveVolume(ctx context.Context, name string) error
	// CreateSecret keeps data under a name.
	CreateSecret(ctx context.Context, s api.Secret, data []byte, replace bool) (api.Secret, error)
	InspectSecret(ctx context.Context, name string) (api.Secret, error)
	Secrets(ctx context.Context) ([]api.Secret, error)
	// RemoveSecret returns the secret's ID.
	RemoveSecret(ctx context.Context, name string) (string, error)
	// ExportVolume writes a volume's files as a tar to a file, or to s.Stdout; ImportVolume unpacks one, of a file or of s.Stdin.
	ExportVolume(ctx context.Context, name, file string, s api.Streams) error
	ImportVolume(ctx context.Context, name, file string, s api.Streams) error
	// ContainerSizes measures the files of the named containers, without names of all.
	ContainerSizes(ctx context.Context, names ...string) (map[string]api.ContainerSize, error)
	// CreatePod makes a pod, and its infra container.
	CreatePod(ctx context.Context, spec api.PodSpec) (api.Pod, error)
	// Pods returns, with an error of kind api.Corrupt, those whose records can be read.
	Pods(ctx context.Context) ([]api.Pod, error)
	InspectPod(ctx context.Context, name string) (api.Pod, error)
	// ActOnPod does something to all containers of a pod; o is for a stop, its Signal for a kill.
	ActOnPod(ctx context.Context, name string, what api.PodAction, o api.StopOptions) error
	// RemovePod removes a pod with its containers; seconds is what they are given to end, nil: none.
	RemovePod(ctx context.Context, name string, force bool, seconds *int) error
	// CreateNetwork makes a network; api.AlreadyExists where there is one of its name.
	CreateNetwork(ctx context.Context, n api.Network) (api.Network, error)
	// InspectNetwork finds a network by name or ID; Networks lists them, those that are always there too.
	InspectNetwork(ctx context.Context, name string) (api.Network, error)
	Networks(ctx context.Context) ([]api.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
	// ConnectNetwork and DisconnectNetwork put a container on a network and take it off, also one that runs.
	ConnectNetwork(ctx context.Context, network, container string, place api.EndpointSpec) error
	DisconnectNetwork(ctx context.Context, network, container string, force bool) error
	// The prunes return what they removed also with an error.
	PruneContainers(ctx context.Context, o api.PruneOptions) (api.PruneReport, error)
	PruneImages(ctx context.Context, o api.PruneOptions) (api.PruneReport, error)
	PruneVolumes(ctx context.Context, o api.PruneOptions) (api.PruneReport, error)
	PruneNetworks(ctx context.Context, o api.PruneOptions) (api.PruneReport, error)
	// Check reads the whole store and, with repair, sets right what it can.
	Check(ctx context.Context, repair, insecure bool, s api.Streams) (api.CheckReport, error)
	// StoreLimit is what the store may take, in bytes; 0: no limit.
	StoreLimit(ctx context.Context) (int64, error)
	SetStoreLimit(ctx context.Context, bytes int64) error
	// Reset removes everything of this root and state.
	Reset(ctx context.Context) error
}

// Options are what stands before a command's name and concerns the engine.
type Options struct {
	Root, State string // folders
	Policy      string // file of the signature policy; empty: the user's, else the system's
	StoreLimit  int64  // bytes; 0: what the store has been set to
}

// app is one invocation: what its commands share.
type app struct {
	streams   api.Streams
	newEngine func(Options) Engine
	enter     Enter
	made      Engine // by engine, once
	options   Options
	debug     bool
	args      []string // of the command line
	signals   *catcher
	seLinux   func() bool // whether this kernel labels files
}

// OSStreams are the process's own streams.
func OSStreams() api.Streams {
	s := api.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		s.Terminal = os.Stdin
	}
	return s
}

// Main runs the command that args (without the program's name) ask for and returns the exit code. The engine is made at its first
// use: help and version need none. enter is called before, for who is not root. Signals may stay caught when it returns: it is made for a process
// that then ends.
func Main(ctx context.Context, args []string, streams api.Streams, newEngine func(Options) Engine, enter Enter) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &app{streams: streams, newEngine: newEngine, enter: enter, signals: newCatcher(cancel), seLinux: hasSELinux}
	return a.main(ctx, args)
}

// main runs the command that args ask for.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.streams.Stdin)
	root.SetOut(a.streams.Stdout)
	root.SetErr(a.streams.Stderr)
	a.addCommands(root, args)
	err := root.ExecuteContext(ctx)
	var unknown *pflag.NotExistError
	var use *usageError
	if errors.As(err, &unknown) && !errors.As(err, &use) { // before a command that there is: cobra says so by itself
		err = flagError(root, err)
	}
	return a.report(err)
}

// Tree returns the whole command tree, for tools that write manuals from it. Its commands cannot be run.
func Tree() *cobra.Command {
	a := &app{}
	root := a.rootCommand()
	a.addCommands(root, []string{"help"})
	return root
}

// engine makes the engine at its first use, when the global flags are known.
func (a *app) engine() Engine {
	if a.made == nil {
		a.made = a.newEngine(a.options)
	}
	return a.made
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.streams.Stdout, format, args...) }

func (a *app) errorf(format string, args ...any) {
	fmt.Fprintf(a.streams.Stderr, "brig: "+format+"\n", args...)
}

// rootCommand makes the command without subcommands. Its flags stand before the command's name, as docker's do.
func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "brig [OPTIONS] COMMAND [ARG...]",
		Short: "Run containers without a daemon",
		Long: "Brig runs OCI images in containers. It needs no daemon: every command does its work itself, and any number of them may\n" +
			"work at the same time. Commands, flags, output and exit codes are docker's.",
		Example: "  brig run --rm debian echo hello\n  brig run -d --name web -p 8080:80 nginx\n  brig ps",
		Version: Version, // makes cobra add --version
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return &usageError{err: fmt.Errorf("unknown command: brig %s", args[0]), path: "brig"}
		},
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		DisableFlagsInUseLine: true,
		SilenceErrors:         true,
		SilenceUsage:          true,
		TraverseChildren:      true,
		PersistentPreRunE:     a.becomeRoot,
	}
	root.SetUsageFunc(usage)
	root.SetHelpFunc(help)
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("Brig version {{.Version}}\n")
	f := root.Flags()
	f.SortFlags = false
	durable, live := defaultFolders()
	f.StringVar(&a.options.Root, "root", envOr("BRIG_ROOT", durable), "Folder of durable data (env BRIG_ROOT)")
	f.StringVar(&a.options.State, "state", envOr("BRIG_STATE", live), "Folder of data that lives until the next boot (env BRIG_STATE)")
	f.StringVar(&a.options.Policy, "policy", os.Getenv("BRIG_POLICY"), "File of the signature policy, see containers-policy.json(5) (env BRIG_POLICY)")
	parsed(f, "store-limit", "", "bytes", "What the store may take on the disk, for what this command brings in (see brig system limit)", assign(&a.options.StoreLimit, parseStoreLimit))
	f.BoolVarP(&a.debug, "debug", "D", false, "Explain errors by their kind and every cause")
	return root
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// entry is a command that can be constructed.
type entry struct {
	name      string
	construct func(*app) *cobra.Command
}

// commands is the list of all commands; help sorts it by name. A new one is added here.
func commands() []entry {
	return []entry{
		{"run", (*app).run}, {"create", (*app).create}, {"init", (*app).initialize}, {"start", (*app).start}, {"stop", (*app).stop}, {"kill", (*app).kill},
		{"wait", (*app).wait}, {"rm", (*app).rm}, {"ps", (*app).ps}, {"logs", (*app).logs}, {"exec", (*app).exec}, {"debug", (*app).debugCmd},
		{"attach", (*app).attach}, {"inspect", (*app).inspect}, {"images", (*app).images}, {"pull", (*app).pull},
		{"push", (*app).push}, {"copy", (*app).copy}, {"receive", (*app).receive},
		{"load", (*app).load}, {"save", (*app).save}, {"rmi", (*app).rmi}, {"selftest", (*app).selftest}, {"system", (*app).system}, {"tag", (*app).tag}, {"version", (*app).version}, {"vm", (*app).vm},
		{"info", (*app).info}, {"reap", (*app).reap}, {"registry", (*app).registry}, {"metrics", (*app).metrics}, {"boot", (*app).boot}, {"why", (*app).why},
		{"login", (*app).login}, {"logout", (*app).logout}, {"search", (*app).search},
		{"history", (*app).history}, {"untag", (*app).untag}, {"import", (*app).importImage}, {"export", (*app).export}, {"commit", (*app).commit},
		{"rename", (*app).rename}, {"restart", (*app).restart}, {"pause", (*app).pause}, {"unpause", (*app).unpause}, {"port", (*app).port},
		{"top", (*app).top}, {"diff", (*app).diff}, {"stats", (*app).stats}, {"update", (*app).update}, {"cp", (*app).cp}, {"events", (*app).events},
		{"container", (*app).containerGroup}, {"pod", (*app).podGroup}, {"image", (*app).imageGroup}, {"volume", (*app).volumeGroup}, {"secret", (*app).secretGroup},
		{"network", (*app).networkGroup}, {"checkpoint", (*app).checkpointGroup},
	}
}

// addCommands constructs the command that args name, or all where they name none of the list.
func (a *app) addCommands(root *cobra.Command, args []string) {
	a.args = args
	name := commandName(args)
	all := commands()
	for _, e := range all {
		if e.name == name {
			root.CompletionOptions.DisableDefaultCmd = true
			root.AddCommand(a.make(e))
			return
		}
	}
	if name != "" {
		if c := refusing(name, "brig"); c != nil {
			root.AddCommand(c)
			return
		}
	}
	for _, e := range all {
		root.AddCommand(a.make(e))
	}
}

// make constructs a command with what all have in common.
func (a *app) make(e entry) *cobra.Command {
	cmd := e.construct(a)
	cmd.DisableFlagsInUseLine = true // Use says [OPTIONS] where there are some
	f := cmd.Flags()
	f.SortFlags = false
	if f.ShorthandLookup("h") != nil { // --hostname has it: cobra would claim it again
		f.Bool("help", false, "Print usage")
	}
	return cmd
}

// commandName returns the first word of args that is neither a global flag nor its value.
func commandName(args []string) string {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--root" || args[i] == "--state" || args[i] == "--policy" || args[i] == "--store-limit":
			i++
		case !strings.HasPrefix(args[i], "-"):
			return args[i]
		}
	}
	return ""
}

// quietly returns the streams without progress where quiet asks for that.
func (a *app) quietly(quiet bool) api.Streams {
	s := a.streams
	if quiet {
		s.Stderr = io.Discard
	}
	return s
}

// windowSize asks the terminal for its size; zero where there is none.
func windowSize(f *os.File) api.WindowSize {
	if f == nil {
		return api.WindowSize{}
	}
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return api.WindowSize{}
	}
	return api.WindowSize{Rows: uint16(rows), Cols: uint16(cols)}
}

// signalCode is the exit code of a process that sig ended.
func signalCode(sig syscall.Signal) int { return 128 + int(sig) }
