package monitor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/runsc/container"
)

// Arguments of a probe: package sentry's for who asks, and that of what runs inside, which is this program.
const (
	argProbe  = "probe"
	argProbed = "probed"
)

// probeLimit is longer than who asks waits.
const probeLimit = 15 * time.Second

// probe runs something in a Sentry on a platform, with its files in dir, and returns 0 where that ended well. It may hang: who asks has a deadline.
func probe(platform, dir string) int {
	time.AfterFunc(probeLimit, func() { os.Exit(exitFailed) }) // who asked may have been killed
	runtime.LockOSThread()                                     // which the Sentry and the gofer end with
	code, err := probed(platform, dir)
	if err != nil {
		fmt.Fprintf(os.Stderr, "brig-sentry: platform %s: %v\n", platform, err)
		return exitFailed
	}
	return code
}

func probed(platform, dir string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	const program = "/brig-sentry"
	root, state := filepath.Join(dir, "root"), filepath.Join(dir, "state")
	for _, d := range []string{root, state} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return 0, err
		}
	}
	spec := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: root},
		Process: &specs.Process{Args: []string{program, argProbed}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}},
		Mounts:  []specs.Mount{{Type: "bind", Source: self, Destination: program, Options: []string{"bind", "ro"}}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return 0, err
	}
	conf, err := settings(spec, platform, state)
	if err != nil {
		return 0, err
	}
	conf.PanicLog = ""
	ws, err := container.Run(conf, container.Args{ID: sandboxID, Spec: spec, BundleDir: dir, Attached: true})
	return ws.ExitStatus(), err
}
