package engine

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// minMemory is docker's: less cannot hold a process. In bytes.
const minMemory = 6 << 20

// cpuPeriod is the length of a CPU bandwidth period in microseconds, the kernel's default: Documentation/scheduler/sched-bwc.rst.
const cpuPeriod = 100_000

// resources turns limits into a cgroup's settings. The device rules come with them: nothing but the nodes that every container has.
func resources(s *api.ContainerSpec) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{Devices: deviceRules(s.Privileged)}
	if m := s.Limits.Memory; m != 0 {
		if m < minMemory {
			return nil, api.Errorf(api.InvalidArgument, "memory limit of %d bytes is under the minimum of 6 MiB", m)
		}
		swap := 2 * m // docker's default: as much swap as memory
		r.Memory = &specs.LinuxMemory{Limit: &m, Swap: &swap}
	}
	if n := s.Limits.NanoCPUs; n != 0 {
		quota, period := n*cpuPeriod/1e9, uint64(cpuPeriod)
		if quota < 1000 {
			return nil, api.Errorf(api.InvalidArgument, "%g CPUs are under the minimum of 0.01", float64(n)/1e9)
		}
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if p := s.Limits.Pids; p > 0 {
		r.Pids = &specs.LinuxPids{Limit: &p}
	}
	return r, nil
}

// deviceRules are docker's: every device may be made, only those that every container has may be opened.
func deviceRules(all bool) []specs.LinuxDeviceCgroup {
	if all {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}} // the runtime adds the default ones
}

// devices are the nodes for --device, with their rules added to r; a privileged container gets the host's.
func (e *Engine) devices(s *api.ContainerSpec, r *specs.LinuxResources) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	if s.Privileged {
		err := filepath.WalkDir("/dev", func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // what cannot be read is not handed on
			}
			if d.IsDir() {
				switch p {
				case "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.udev":
					return filepath.SkipDir
				}
				return nil
			}
			if d.Type()&fs.ModeDevice != 0 && p != "/dev/console" && p != "/dev/ptmx" {
				if dev, err := device(p, p); err == nil {
					list = append(list, dev)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, d := range s.Devices {
		found, err := expandDevice(d)
		if err != nil {
			return nil, err
		}
		for _, dev := range found {
			list = append(list, dev)
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: d.Permissions})
		}
	}
	return list, nil
}

// expandDevice takes a device, or all devices of a folder, as docker does.
func expandDevice(d api.DeviceSpec) ([]specs.LinuxDevice, error) {
	st, err := os.Stat(d.Source)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "device %s: %w", d.Source, err)
	}
	if !st.IsDir() {
		dev, err := device(d.Source, d.Target)
		return []specs.LinuxDevice{dev}, err
	}
	entries, err := os.ReadDir(d.Source)
	if err != nil {
		return nil, err
	}
	var list []specs.LinuxDevice
	for _, e := range entries {
		if e.Type()&fs.ModeDevice == 0 {
			continue
		}
		dev, err := device(filepath.Join(d.Source, e.Name()), filepath.Join(d.Target, e.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, dev)
	}
	if len(list) == 0 {
		return nil, api.Errorf(api.InvalidArgument, "device %s: the folder holds no devices", d.Source)
	}
	return list, nil
}

func device(source, target string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return specs.LinuxDevice{}, api.Errorf(api.InvalidArgument, "device %s: %w", source, err)
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return specs.LinuxDevice{}, api.Errorf(api.InvalidArgument, "device %s is not a device node", source)
	}
	mode := os.FileMode(st.Mode & 0o777)
	uid, gid := st.Uid, st.Gid
	return specs.LinuxDevice{Path: target, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &uid, GID: &gid}, nil
}

// rlimits turns ulimits into the kernel's names.
func rlimits(list []api.Ulimit) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	for _, u := range list {
		switch u.Name {
		case "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack":
		default:
			return nil, api.Errorf(api.InvalidArgument, "ulimit %q is unknown", u.Name)
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return out, nil
}

func itoa(n int64) string  { return strconv.FormatInt(n, 10) }
func octal(n int64) string { return strconv.FormatInt(n, 8) }
