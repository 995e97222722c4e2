// Package sentry is the level of isolation "gvisor": gVisor's Sentry, a kernel that is a program, answers the system calls of what runs inside. The program and its gofer are in
// cmd/brig-sentry, a module of its own; this package, which the lean programs link, says what the box around them needs.
package sentry

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/runtime/boxed"
	"brig/internal/runtime/oci"
)

// Program is the name of the monitor's program.
const Program = "brig-sentry"

// Level is the level's part of a box.
type Level struct {
	Path     string // of Program on the host
	Platform string // that the user asks for: KVM, Systrap or Ptrace; empty: the first of the last two that works
	State    string // a folder that lives as long as the boot, for what was found out about platforms
}

var (
	_ boxed.Level  = Level{}
	_ boxed.Joined = Level{}
	_ boxed.Saver  = Level{}
	_ boxed.Teller = Level{}
)

// Name is the level's name.
func (Level) Name() string { return string(api.IsolationGVisor) }

// Program is the path, on the host, of the monitor.
func (l Level) Program() string { return l.Path }

// Joins says that the monitor takes further processes over a socket: its own program is slow to start, and large.
func (Level) Joins() {}

// Saves says that the Sentry can write down what runs in it.
func (Level) Saves() {}

// Tells says that the Sentry tells its processes.
func (Level) Tells() {}

// Usable says why the level cannot be used here: api.Unsupported.
func (l Level) Usable() error {
	if err := l.Installed(); err != nil {
		return err
	}
	_, err := l.platform()
	return err
}

// Installed says whether the program is there: api.Unsupported.
func (l Level) Installed() error {
	if _, err := os.Stat(l.Path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return api.Errorf(api.Unsupported, "the program %s is not installed", Program)
		}
		return api.Errorf(api.Unsupported, "the program %s: %w", Program, err)
	}
	return nil
}

// rights are the capabilities that the monitor, the Sentry and the gofer need until they have locked themselves in.
var rights = [...]string{
	"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETPCAP", "CAP_SETUID", "CAP_SETGID", // roots and user namespaces of their own
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", // the gofer: files of all users
	"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", // the Sentry takes interfaces over; the monitor answers look-ups
	"CAP_SETFCAP", // to map root into the user namespace of both: user_namespaces(7)
	"CAP_SYS_PTRACE", "CAP_KILL",
}

// boxPids bounds the threads in a box, of which each process inside has some two: no flag does.
const boxPids = 8192

// Box gives the box what the monitor needs.
func (l Level) Box(user, box *specs.Spec) error {
	pod, err := boxed.PodOf(user)
	if err != nil {
		return err
	}
	platform, err := l.platform()
	if err != nil {
		return err
	}
	box.Process.Args = append(box.Process.Args, platform)
	r := specs.LinuxResources{}
	if box.Linux.Resources != nil {
		r = *box.Linux.Resources
	}
	pids := int64(boxPids)
	r.Pids = &specs.LinuxPids{Limit: &pids}
	if platform == KVM {
		all, major, minor := os.FileMode(0o666), int64(10), int64(232)
		box.Linux.Devices = append(box.Linux.Devices, specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: major, Minor: minor, FileMode: &all})
		r.Devices = append(slices.Clone(r.Devices), specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
	}
	box.Linux.Resources = &r
	names := rights[:]
	if pod != nil && pod.Member != "" { // its network is the Sentry's, of another box
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.HasPrefix(name, "CAP_NET_") })
	}
	box.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	box.Annotations[oci.AnnotationSeccomp] = oci.SeccompNesting // the Sentry and the gofer have filters of their own besides
	box.Annotations[oci.AnnotationTells] = "1"
	return nil
}
