package cli

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"brig/api"
)

// limitFlags are the limits that can be set when a container is made, and changed later.
func limitFlags(f *pflag.FlagSet, l *api.Resources) {
	parsed(f, "memory", "m", "bytes", "Memory limit", assign(&l.Memory, parseBytes))
	parsed(f, "memory-reservation", "", "bytes", "Memory soft limit", assign(&l.MemoryReservation, parseBytes))
	parsed(f, "memory-swap", "", "bytes", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", assign(&l.MemorySwap, parseSwap))
	parsed(f, "cpus", "", "decimal", "Number of CPUs", assign(&l.NanoCPUs, parseCPUs))
	f.Uint64VarP(&l.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Uint64Var(&l.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period, in microseconds")
	f.Int64Var(&l.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota, in microseconds")
	f.StringVar(&l.CPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.StringVar(&l.MemoryNodes, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.Int64Var(&l.Pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	f.Uint16Var(&l.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
}

// deviceFlags are the limits that stay as they were made.
func deviceFlags(f *pflag.FlagSet, l *api.Resources) {
	parsed(f, "memory-swappiness", "", "int", "Tune container memory swappiness (0 to 100)", func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < -1 || n > 100 {
			return fmt.Errorf("invalid value: %s: use 0 to 100", s)
		}
		l.MemorySwappiness = nil
		if n >= 0 { // -1 is the default
			u := uint64(n)
			l.MemorySwappiness = &u
		}
		return nil
	})
	f.BoolVar(&l.OOMKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	list(f, "blkio-weight-device", "", "Block IO weight (relative device weight)", appendTo(&l.DeviceWeights, func(s string) (api.DeviceRate, error) {
		r, err := parseRate(s, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
		if err == nil && r.Rate != 0 && (r.Rate < 10 || r.Rate > 1000) {
			err = fmt.Errorf("invalid weight for device: %s: use 10 to 1000", s)
		}
		return r, err
	}))
	for _, d := range []struct{ name, about string }{
		{"read-bps", "Limit read rate (bytes per second) from a device"}, {"write-bps", "Limit write rate (bytes per second) to a device"},
		{"read-iops", "Limit read rate (IO per second) from a device"}, {"write-iops", "Limit write rate (IO per second) to a device"},
	} {
		number := parseBytes
		if strings.HasSuffix(d.name, "iops") {
			number = func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
		}
		list(f, "device-"+d.name, "", d.about, func(s string) error {
			r, err := parseRate(s, number)
			if err != nil {
				return err
			}
			if l.DeviceRates == nil {
				l.DeviceRates = map[string][]api.DeviceRate{}
			}
			l.DeviceRates[d.name] = append(l.DeviceRates[d.name], r)
			return nil
		})
	}
}

// parseRate reads PATH:NUMBER of a device.
func parseRate(s string, number func(string) (int64, error)) (api.DeviceRate, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || !path.IsAbs(s[:i]) || !strings.HasPrefix(s, "/dev/") {
		return api.DeviceRate{}, fmt.Errorf("bad format: %s: use /dev/NAME:NUMBER", s)
	}
	n, err := number(s[i+1:])
	if err != nil || n < 0 {
		return api.DeviceRate{}, fmt.Errorf("invalid rate for device: %s: the correct format is <device-path>:<number>[<unit>]", s)
	}
	return api.DeviceRate{Path: path.Clean(s[:i]), Rate: uint64(n)}, nil
}

// parseSwap takes -1 for no limit.
func parseSwap(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	return parseBytes(s)
}

// checkLimits says what is wrong with the limits as typed.
func checkLimits(f *pflag.FlagSet, l *api.Resources) error {
	if l.Pids < -1 {
		return fmt.Errorf("invalid --pids-limit %d: use -1 for no limit", l.Pids)
	}
	if f.Changed("pids-limit") && l.Pids == 0 {
		l.Pids = -1
	}
	if l.NanoCPUs > 0 && (l.CPUPeriod != 0 || l.CPUQuota != 0) {
		return errors.New("conflicting options: a number of CPUs is a quota: use either --cpus, or --cpu-period and --cpu-quota")
	}
	return nil
}
