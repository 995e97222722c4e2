package engine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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
		} else {
			if i.CgroupDriver = "cgroupfs"; tree.Scope {
				i.CgroupDriver = "systemd"
			}
			i.Controllers = tree.Controllers
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
	ids := map[string]bool{}
	for _, img := range images {
		ids[img.ID] = true
	}
	i.Images = len(ids)
	i.ID, i.Runtime, i.Volumes = e.storeID(), sibling("brig-oci"), filepath.Join(e.root, "volume")
	backing(&i)
	machine(&i)
	layout, err := cgroup.Detect()
	if err != nil {
		i.Warnings = append(i.Warnings, "no control groups: "+err.Error())
		return i, nil //nolint:nilerr // it is a warning of the report
	}
	limitable(&i, layout)
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
		unit := int64(s.Unit)
		i.Memory, i.FreeMemory, i.Swap, i.FreeSwap, i.Uptime = int64(s.Totalram)*unit, int64(s.Freeram)*unit, int64(s.Totalswap)*unit, int64(s.Freeswap)*unit, s.Uptime
	}
	forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	i.IPv4Forwarding = err == nil && strings.TrimSpace(string(forward)) == "1"
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, v, ok := strings.Cut(sc.Text(), "=")
		if !ok {
			continue
		}
		if q, err := strconv.Unquote(v); err == nil {
			v = q
		}
		if i.OSRelease = append(i.OSRelease, key+"="+v); key == "PRETTY_NAME" {
			i.OperatingSystem = v
		}
	}
}

// storeID is a number of this store on this machine, in the form of a UUID. It says nothing of the machine's own (machine-id(5)).
func (e *Engine) storeID() string {
	machine, _ := os.ReadFile("/etc/machine-id")
	sum := sha256.Sum256([]byte("brig\x00" + strings.TrimSpace(string(machine)) + "\x00" + e.root))
	h := hex.EncodeToString(sum[:16])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// backing looks at the file system that the store is on.
func backing(i *api.Info) {
	var s unix.Statfs_t
	if unix.Statfs(i.Root, &s) != nil {
		return // nothing has been stored yet
	}
	i.Disk, i.DiskUsed = int64(s.Blocks)*s.Bsize, int64(s.Blocks-s.Bfree)*s.Bsize
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC:
		i.Filesystem = "extfs"
	case unix.XFS_SUPER_MAGIC:
		i.Filesystem = "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		i.Filesystem = "btrfs"
	case unix.TMPFS_MAGIC:
		i.Filesystem = "tmpfs"
	case unix.F2FS_SUPER_MAGIC:
		i.Filesystem = "f2fs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		i.Filesystem = "overlayfs"
	default:
		i.Filesystem = "0x" + strconv.FormatInt(s.Type, 16)
	}
}

// limitable tells by which controllers containers can be limited: the machine's, or for a normal user those that are handed down to him, which are there already.
func limitable(i *api.Info, l *cgroup.Layout) {
	if rootless.Active() {
		i.SwapLimit = slices.Contains(i.Controllers, "memory") && l.SwapLimit()
		return
	}
	for _, c := range []string{"cpuset", "cpu", "cpuacct", "blkio", "io", "memory", "devices", "freezer", "hugetlb", "pids", "rdma", "misc"} {
		if l.Has(c) {
			i.Controllers = append(i.Controllers, c)
		}
	}
	i.SwapLimit = l.SwapLimit()
}
