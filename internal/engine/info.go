package engine

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/cgroup"
)

// Info gathers what there is to know about this Brig and its machine.
func (e *Engine) Info(ctx context.Context) (api.Info, error) {
	i := api.Info{
		Version: e.version, Root: e.root, State: e.state,
		OSType: "linux", CPUs: runtime.NumCPU(), CgroupDriver: "cgroupfs", StorageDriver: "overlay",
		SecurityOptions: []string{"name=seccomp,profile=builtin"},
		Isolation:       e.levelStates(),
	}
	if rootless.Active() { // docker's words
		i.SecurityOptions, i.CgroupDriver = append(i.SecurityOptions, "name=rootless"), "none"
		if tree, err := e.subtree(); err != nil {
			i.Warnings = append(i.Warnings, "containers have no control group: "+err.Error())
		} else if i.CgroupDriver = "cgroupfs"; tree.Scope {
			i.CgroupDriver = "systemd"
		}
	}
	list, err := e.List(ctx)
	if err != nil {
		return i, err
	}
	for _, c := range list {
		i.Containers++
		switch c.State.Status {
		case api.StatusRunning:
			i.Running++
		case api.StatusPaused:
			i.Paused++
		default:
			i.Stopped++
		}
	}
	images, err := e.meta.Images()
	if err != nil {
		return i, err
	}
	i.Images = len(images)
	machine(&i)
	layout, err := cgroup.Detect()
	if err != nil {
		i.Warnings = append(i.Warnings, "no control groups: "+err.Error())
		return i, nil //nolint:nilerr // it is a warning of the report
	}
	i.CgroupVersion = "1"
	if layout.V2() {
		i.CgroupVersion = "2"
		i.SecurityOptions = append(i.SecurityOptions, "name=cgroupns")
	}
	return i, nil
}

func machine(i *api.Info) {
	i.Hostname, _ = os.Hostname()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		i.KernelVersion, i.Architecture = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		i.Memory = int64(s.Totalram) * int64(s.Unit)
	}
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "PRETTY_NAME="); ok {
			if q, err := strconv.Unquote(v); err == nil {
				v = q
			}
			i.OperatingSystem = v
		}
	}
}
