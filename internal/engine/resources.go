package engine

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
)

// minMemory is docker's: less cannot hold a process. In bytes.
const minMemory = 6 << 20

// cpuPeriod is the length of a CPU bandwidth period in microseconds, the kernel's default: Documentation/scheduler/sched-bwc.rst.
const cpuPeriod = 100_000

// resources turns limits into a cgroup's settings. The device rules come with them: nothing but the nodes that every container has.
func resources(s *api.ContainerSpec) (*specs.LinuxResources, error) {
	r, err := limits(&s.Limits)
	if err != nil {
		return nil, err
	}
	r.Devices = deviceRules(s.Privileged)
	return r, nil
}

// limits is resources without rules for devices.
func limits(l *api.Resources) (*specs.LinuxResources, error) {
	memory, err := memoryLimits(l)
	if err != nil {
		return nil, err
	}
	cpu, err := cpuLimits(l)
	if err != nil {
		return nil, err
	}
	block, err := blockLimits(l)
	if err != nil {
		return nil, err
	}
	r := &specs.LinuxResources{Memory: memory, CPU: cpu, BlockIO: block}
	if l.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &l.Pids}
	}
	return r, nil
}

// memoryLimits are held against docker's rules.
func memoryLimits(l *api.Resources) (*specs.LinuxMemory, error) {
	m := &specs.LinuxMemory{Swappiness: l.MemorySwappiness}
	switch {
	case l.Memory != 0 && l.Memory < minMemory:
		return nil, api.Errorf(api.InvalidArgument, "memory limit of %d bytes is under the minimum of 6 MiB", l.Memory)
	case l.MemoryReservation != 0 && l.MemoryReservation < minMemory:
		return nil, api.Errorf(api.InvalidArgument, "memory reservation of %d bytes is under the minimum of 6 MiB", l.MemoryReservation)
	case l.MemorySwap < -1:
		return nil, api.Errorf(api.InvalidArgument, "limit of memory and swap of %d bytes: use -1 for none", l.MemorySwap)
	case l.MemorySwap > 0 && l.Memory == 0:
		return nil, api.Errorf(api.InvalidArgument, "a limit of memory and swap needs a memory limit beside it: add --memory")
	case l.MemorySwap > 0 && l.MemorySwap < l.Memory:
		return nil, api.Errorf(api.InvalidArgument, "the limit of memory and swap together, %d bytes, is under the memory limit, %d: raise --memory-swap", l.MemorySwap, l.Memory)
	case l.MemoryReservation != 0 && l.Memory != 0 && l.MemoryReservation > l.Memory:
		return nil, api.Errorf(api.InvalidArgument, "the memory reservation, %d bytes, is over the memory limit, %d", l.MemoryReservation, l.Memory)
	case l.MemorySwappiness != nil && *l.MemorySwappiness > 100:
		return nil, api.Errorf(api.InvalidArgument, "memory swappiness of %d: use 0 to 100", *l.MemorySwappiness)
	}
	if l.Memory != 0 {
		swap := l.MemorySwap
		if swap == 0 {
			swap = 2 * l.Memory // docker's default: as much swap as memory
		}
		m.Limit, m.Swap = &l.Memory, &swap
	}
	if l.MemoryReservation != 0 {
		m.Reservation = &l.MemoryReservation
	}
	if l.OOMKillDisable {
		m.DisableOOMKiller = &l.OOMKillDisable
	}
	if *m == (specs.LinuxMemory{}) {
		return nil, nil
	}
	return m, nil
}

// cpuLimits are held against docker's rules.
func cpuLimits(l *api.Resources) (*specs.LinuxCPU, error) {
	c := &specs.LinuxCPU{Cpus: l.CPUs, Mems: l.MemoryNodes}
	switch {
	case l.NanoCPUs != 0 && (l.CPUPeriod != 0 || l.CPUQuota != 0):
		return nil, api.Errorf(api.InvalidArgument, "conflicting options: a number of CPUs is a quota: use either --cpus, or --cpu-period and --cpu-quota")
	case l.NanoCPUs != 0 && l.NanoCPUs*cpuPeriod/1e9 < 1000:
		return nil, api.Errorf(api.InvalidArgument, "%g CPUs are under the minimum of 0.01", float64(l.NanoCPUs)/1e9)
	case l.NanoCPUs > int64(runtime.NumCPU())*1e9:
		return nil, api.Errorf(api.InvalidArgument, "range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", runtime.NumCPU(), runtime.NumCPU())
	case l.CPUPeriod != 0 && (l.CPUPeriod < 1000 || l.CPUPeriod > 1_000_000):
		return nil, api.Errorf(api.InvalidArgument, "CPU period of %d microseconds: it can be from 1000 (1 ms) to 1000000 (1 s)", l.CPUPeriod)
	case l.CPUQuota < -1 || l.CPUQuota > 0 && l.CPUQuota < 1000:
		return nil, api.Errorf(api.InvalidArgument, "CPU quota of %d microseconds is under the minimum of 1000 (1 ms)", l.CPUQuota)
	}
	for _, set := range []string{l.CPUs, l.MemoryNodes} {
		if set == "" {
			continue
		}
		if _, err := cgroup.ParseList(set); err != nil {
			return nil, api.Errorf(api.InvalidArgument, "invalid value %q for a cpuset: use numbers as 0-3,7", set)
		}
	}
	if l.NanoCPUs != 0 {
		quota, period := l.NanoCPUs*cpuPeriod/1e9, uint64(cpuPeriod)
		c.Quota, c.Period = &quota, &period
	}
	if l.CPUPeriod != 0 {
		c.Period = &l.CPUPeriod
	}
	if l.CPUQuota != 0 {
		c.Quota = &l.CPUQuota
	}
	if l.CPUShares != 0 {
		shares := min(max(l.CPUShares, 2), 1<<18) // docker lets the kernel take the nearest
		c.Shares = &shares
	}
	if *c == (specs.LinuxCPU{}) {
		return nil, nil
	}
	return c, nil
}

// blockLimits looks the devices up.
func blockLimits(l *api.Resources) (*specs.LinuxBlockIO, error) {
	if l.BlkioWeight == 0 && len(l.DeviceWeights) == 0 && len(l.DeviceRates) == 0 {
		return nil, nil
	}
	b := &specs.LinuxBlockIO{}
	if w := l.BlkioWeight; w != 0 {
		if w < 10 || w > 1000 {
			return nil, api.Errorf(api.InvalidArgument, "range of blkio weight is from 10 to 1000, not %d", w)
		}
		b.Weight = &w
	}
	for _, d := range l.DeviceWeights {
		major, minor, err := blockDevice(d.Path)
		if err != nil {
			return nil, err
		}
		weight := uint16(d.Rate)
		one := specs.LinuxWeightDevice{Weight: &weight}
		one.Major, one.Minor = major, minor
		b.WeightDevice = append(b.WeightDevice, one)
	}
	for _, to := range []struct {
		flag string
		list *[]specs.LinuxThrottleDevice
	}{
		{"read-bps", &b.ThrottleReadBpsDevice}, {"write-bps", &b.ThrottleWriteBpsDevice},
		{"read-iops", &b.ThrottleReadIOPSDevice}, {"write-iops", &b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range l.DeviceRates[to.flag] {
			major, minor, err := blockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			one := specs.LinuxThrottleDevice{Rate: d.Rate}
			one.Major, one.Minor = major, minor
			*to.list = append(*to.list, one)
		}
	}
	return b, nil
}

func blockDevice(path string) (major, minor int64, err error) {
	dev, err := device(path, path)
	if err == nil && dev.Type != "b" {
		err = api.Errorf(api.InvalidArgument, "device %s is not a block device", path)
	}
	return dev.Major, dev.Minor, err
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
		if isCDI(&d) {
			continue
		}
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
