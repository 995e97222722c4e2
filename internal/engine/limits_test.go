package engine

import (
	"strings"
	"testing"

	"brig/api"
)

// TestLimits holds docker's rules for limits.
func TestLimits(t *testing.T) {
	many := uint64(101)
	for want, l := range map[string]api.Resources{
		"under the minimum of 6 MiB":                    {Memory: 1 << 20},
		"reservation of 1048576":                        {MemoryReservation: 1 << 20},
		"needs a memory limit":                          {MemorySwap: 1 << 30},
		"raise --memory-swap":                           {Memory: 1 << 30, MemorySwap: 1 << 29},
		"use -1 for none":                               {Memory: 1 << 30, MemorySwap: -2},
		"reservation, 1073741824 bytes, is over":        {Memory: 1 << 29, MemoryReservation: 1 << 30},
		"swappiness of 101":                             {MemorySwappiness: &many},
		"use either --cpus":                             {NanoCPUs: 1e9, CPUPeriod: 1000},
		"under the minimum of 0.01":                     {NanoCPUs: 1e6},
		"range of CPUs":                                 {NanoCPUs: 1e15},
		"CPU period of 10":                              {CPUPeriod: 10},
		"CPU quota of 10":                               {CPUQuota: 10},
		`invalid value "x"`:                             {CPUs: "x"},
		"range of blkio weight is from 10 to 1000":      {BlkioWeight: 9},
		"/dev/null is not a block device":               {DeviceRates: map[string][]api.DeviceRate{"read-bps": {{Path: "/dev/null", Rate: 1}}}},
		"device /dev/nosuch: no such file or directory": {DeviceWeights: []api.DeviceRate{{Path: "/dev/nosuch", Rate: 100}}},
	} {
		if _, err := limits(&l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", l, err, want)
		}
	}
	r, err := limits(&api.Resources{Memory: 1 << 30, NanoCPUs: 1e9, CPUShares: 1, Pids: 7})
	if err != nil || *r.Memory.Swap != 2<<30 || *r.CPU.Quota != 100_000 || *r.CPU.Shares != 2 || *r.Pids.Limit != 7 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := limits(&api.Resources{}); err != nil || r.Memory != nil || r.CPU != nil || r.BlockIO != nil || r.Pids != nil {
		t.Errorf("no limits: %+v, %v", r, err)
	}
}

// TestMerged holds how a change is put over what there is.
func TestMerged(t *testing.T) {
	old := api.Resources{Memory: 1 << 30, Pids: 7, CPUs: "0"}
	got, err := merged(old, &api.Resources{Pids: -1, CPUShares: 512})
	if err != nil || got.Memory != 1<<30 || got.Pids != -1 || got.CPUShares != 512 || got.CPUs != "0" {
		t.Errorf("%+v, %v", got, err)
	}
	r, err := settings(&got, &old)
	if err != nil || *r.Pids.Limit != -1 {
		t.Errorf("a limit that is taken back: %+v, %v", r, err)
	}
	for _, c := range []struct{ old, change api.Resources }{
		{api.Resources{NanoCPUs: 1e9}, api.Resources{CPUQuota: 5000}},
		{api.Resources{CPUPeriod: 5000}, api.Resources{NanoCPUs: 1e9}},
		{api.Resources{Memory: 1 << 29, MemorySwap: 1 << 30}, api.Resources{Memory: 2 << 30}},
	} {
		if _, err := merged(c.old, &c.change); err == nil {
			t.Errorf("%+v over %+v is taken", c.change, c.old)
		}
	}
}
