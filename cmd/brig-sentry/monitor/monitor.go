// Package monitor is the first process of a box of level gvisor, and what joins it there.
//
// It starts gVisor's Sentry, the kernel of what runs inside, and its gofer, which opens the user's files for it. Both are this program, executed anew by gVisor's own code,
// and lock themselves in before they run anything of the user's. The monitor never does: it hands signals on, starts the processes that its further executions ask
// for over a socket, answers look-ups of names, and ends as the user's process did.
package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"

	"brig/internal/runtime/boxed/wire"
)

// Exit statuses, docker's.
const (
	exitFailed      = 125 // the level could not do it
	exitNotRunnable = 126
	exitNotFound    = 127
)

// The sandbox's name among gVisor's, and where its state and ours lie in the box.
const (
	sandboxID = "box"
	stateDir  = wire.RunDir + "/sentry"
	bundleDir = wire.RunDir + "/bundle"
	chrootDir = "/tmp"                      // that the Sentry makes its root of
	lastWords = wire.RunDir + "/last-words" // of a Sentry that crashes
)

// inline has packets handled by the goroutine that receives them. Others are saved with a checkpoint, whether a saved container's network is or not, and run again where it is restored:
// what had come just then they hand to the network stack of then, which is not whole, and the Sentry crashes.
const inline = 1

// Main does what the arguments say and returns the exit status.
func Main(args []string) int {
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
	switch {
	case len(args) == 3 && args[0] == argProbe:
		return probe(args[1], args[2])
	case len(args) == 1 && args[0] == argProbed:
		return 0
	case len(args) == 2 && args[0] == wire.ArgRun:
		unix.CloseOnExec(wire.TellFD)
		s, err := begin(args[1], catch())
		if err != nil {
			return refused(err)
		}
		tell(wire.Begun{})
		debug.FreeOSMemory() // what starting took
		return s.wait()
	}
	fmt.Fprintln(os.Stderr, "brig-sentry: Brig executes it for containers of isolation level gvisor. A link to it named runsc is gVisor's runsc.")
	return exitFailed
}

// failure is an error with the exit status that tells it.
type failure struct {
	error
	code int
}

// refused tells why the process inside does not run.
func refused(err error) int {
	code := exitFailed
	var f failure
	if errors.As(err, &f) {
		code = f.code
	}
	tell(wire.Begun{Code: uint32(code), Why: err.Error()})
	return code
}

// tell says to who executed this program what became of the process inside.
func tell(b wire.Begun) {
	_, _ = unix.Write(wire.TellFD, b.Encode()) // who has gone is not told
	unix.Close(wire.TellFD)
}

// begin starts the user's process, from its configuration, on a platform of gVisor's. The signals that come meanwhile are handed on then.
func begin(platform string, signals <-chan os.Signal) (*sandbox, error) {
	asked, err := listen()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(wire.ConfigPath)
	if err != nil {
		return nil, err
	}
	var user specs.Spec
	if err := json.Unmarshal(data, &user); err != nil {
		return nil, fmt.Errorf("%s: %w", wire.ConfigPath, err)
	}
	spec, err := inner(&user)
	if err != nil {
		return nil, err
	}
	p, err := wire.PodOf(&user)
	if err != nil {
		return nil, err
	}
	isMember := p != nil && p.Member != ""
	if err := names(spec, isMember); err != nil {
		return nil, fmt.Errorf("look-ups of names: %w", err)
	}
	conf, err := settings(spec, platform, stateDir)
	if err != nil {
		return nil, err
	}
	if p != nil {
		pod(spec, p)
		joined(spec, &user)
		conf.EnableRaw = true // whether a container of a pod has it its capabilities say
	} else { // a checkpoint may be made of it
		conf.NetworkProcessorsPerChannel = inline
	}
	for _, dir := range []string{bundleDir, chrootDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if data, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundleDir, "config.json"), data, 0o600); err != nil {
		return nil, err
	}
	if folder(spec.Process.Cwd) == unix.ENOTDIR { // the gofer would end without a word
		return nil, nowhere(spec.Process, unix.ENOTDIR)
	}
	s := &sandbox{conf: conf, spec: spec}
	if isMember {
		s.c, s.held, err = startMember(p, conf, spec)
	} else {
		s.c, err = start(conf, spec)
	}
	if err != nil {
		return nil, err
	}
	if err := give(); err != nil {
		return nil, err
	}
	if p != nil && !isMember {
		l, err := attend()
		if err != nil {
			return nil, err
		}
		go s.members(l)
	}
	go s.serve(asked)
	go s.forward(signals, 0, spec.Process.Terminal)
	return s, nil
}

// start starts a Sentry with the user's process, or with what was saved of it.
func start(conf *config.Config, spec *specs.Spec) (*container.Container, error) {
	c, err := container.New(conf, container.Args{ID: sandboxID, Spec: spec, BundleDir: bundleDir, Attached: true})
	if err != nil {
		return nil, fmt.Errorf("gVisor: %w", err)
	}
	if restores() {
		if err := c.Restore(conf, wire.RestoreDir, false, false, nil); err != nil {
			return nil, fmt.Errorf("the checkpoint cannot be restored: start the container without it: gVisor: %s", short(died(err, sentrySaid())))
		}
		return c, nil
	}
	if err := c.Start(conf); err != nil {
		return nil, cause(died(err, sentrySaid()), spec.Process)
	}
	return c, nil
}

// settings are gVisor's flags for a box.
func settings(spec *specs.Spec, platform, dir string) (*config.Config, error) {
	config.RegisterFlags(flag.CommandLine)
	network := "none"
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			network = "sandbox"
		}
	}
	for name, value := range map[string]string{
		"root":           dir,
		"network":        network,
		"platform":       platform,
		"ignore-cgroups": "true",
		"host-settings":  "ignore",
		"panic-log":      lastWords,
		// Written through, and looked at again: the host has the same tree, and others write into it.
		"overlay2":    "none",
		"file-access": "shared",
		"net-raw":     fmt.Sprint(has(spec.Process.Capabilities, "CAP_NET_RAW")),
		"host-uds":    sockets(spec),
	} {
		if err := flag.CommandLine.Set(name, value); err != nil {
			return nil, fmt.Errorf("gVisor's flag %s: %w", name, err)
		}
	}
	return config.NewFromFlags(flag.CommandLine)
}

// sockets says whether the Sentry may connect to sockets of the host's: only where the user binds one.
func sockets(spec *specs.Spec) string {
	for _, m := range spec.Mounts {
		var st unix.Stat_t
		if m.Type == "bind" && unix.Lstat(m.Source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return "open"
		}
	}
	return "none"
}

func has(l *specs.LinuxCapabilities, name string) bool {
	if l != nil {
		for _, c := range l.Bounding {
			if c == name {
				return true
			}
		}
	}
	return false
}

// cause turns what gVisor says of a process that did not start into docker's words and exit status.
func cause(err error, p *specs.Process) error {
	said := err.Error()
	command := p.Args[0]
	words, code := "", exitNotRunnable
	switch {
	case strings.Contains(said, unix.ENOENT.Error()) && folder(p.Cwd) == unix.ENOENT:
		return nowhere(p, unix.ENOENT)
	case strings.Contains(said, unix.ENOENT.Error()) && strings.Contains(command, "/"):
		words, code = "no such file or directory in the container, or its interpreter is not there", exitNotFound
	case strings.Contains(said, unix.ENOENT.Error()), strings.Contains(said, "executable file not found"):
		words, code = "executable file not found in the container's $PATH", exitNotFound
	case strings.Contains(said, unix.EACCES.Error()):
		words = "permission denied: is it an executable file?"
	case strings.Contains(said, unix.ENOEXEC.Error()):
		words = "exec format error: not a program for this machine, or a script without #!"
	case strings.Contains(said, unix.ENOTDIR.Error()):
		words, code = "not a directory", exitNotFound
	default:
		return fmt.Errorf("exec %s: %w", command, err)
	}
	return failure{fmt.Errorf("exec %s: %s", command, words), code}
}

// nowhere is about a process whose working directory is none.
func nowhere(p *specs.Process, why error) error {
	return failure{fmt.Errorf("exec %s: working directory %s: %w", p.Args[0], p.Cwd, why), exitNotRunnable}
}

// folder is why a folder is none in the container's tree, as far as that is known. What the Sentry has mounted over that only it knows: then gVisor did not fail for it.
func folder(dir string) error {
	root, err := unix.Open(wire.RootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, "./"+dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == nil {
		unix.Close(fd)
	}
	return err
}
