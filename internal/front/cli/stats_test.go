package cli

import (
	"strings"
	"testing"
	"time"

	"brig/api"
)

func TestStats(t *testing.T) {
	f := &fake{
		containers: []api.Container{{ID: testID, Name: "web", State: api.State{Status: api.StatusRunning}}, {ID: strings.Repeat("a", 64), Name: "done"}},
		used:       api.Usage{At: time.Unix(1, 0), Memory: 3 << 20, MemoryLimit: 6 << 20, NetIn: 1000, NetOut: 20, BlockIn: 5e6, Pids: 4},
	}
	brig(t, f, "stats", "--no-stream", "-i", "0.01").wants(t, 0, ""+
		"CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O     BLOCK I/O   PIDS\n"+
		"0123456789ab   web       150.00%   3MiB / 6MiB         50.00%    1kB / 20B   5MB / 0B    4\n")
	brig(t, f, "stats", "--no-stream", "-i", "0.01", "--no-trunc", "--format", "{{.Container}} {{.ID}} {{.MemUsage}}", "web").wants(t, 0, "web "+testID+" 3MiB / 6MiB\n")
	brig(t, f, "stats", "--no-stream", "-i", "0.01", "-a", "--format", "{{.Name}}").wants(t, 0, "web\ndone\n")
	brig(t, f, "stats", "nosuch").complains(t, 1, "brig: no container nosuch\n")
	brig(t, f, "stats", "--format", "{{").complains(t, 64, "brig: template parsing error")
}

func TestUpdate(t *testing.T) {
	f := &fake{}
	brig(t, f, "update", "-m", "1g", "--memory-swap", "-1", "--cpuset-cpus", "0-1", "--pids-limit", "0", "a", "b").wants(t, 0, "a\nb\n")
	if want := (api.Resources{Memory: 1 << 30, MemorySwap: -1, CPUs: "0-1", Pids: -1}); f.spec.Limits.Memory != want.Memory || f.spec.Limits.MemorySwap != -1 ||
		f.spec.Limits.CPUs != want.CPUs || f.spec.Limits.Pids != -1 {
		t.Errorf("%+v", f.spec.Limits)
	}
	brig(t, f, "update", "a").complains(t, 125, "brig: you must provide one or more flags")
	brig(t, f, "update", "--restart", "sometimes", "a").complains(t, 125, "brig: invalid argument")
	brig(t, f, "update", "--cpus", "1", "--cpu-quota", "5000", "a").complains(t, 125, "brig: conflicting options")
}
