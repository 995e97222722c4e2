package cgroup

import (
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

func lockThread() { runtime.LockOSThread() }

func TestValidate(t *testing.T) {
	for _, c := range []struct{ spec, want string }{ // JSON of linux.resources, and how the error begins; "" for none
		{`{}`, ""},
		{`{"memory":{"limit":-1,"swap":-1,"reservation":-1,"kernel":-1,"kernelTCP":-1,"swappiness":100},"cpu":{"quota":-1,"period":0,"shares":0,"cpus":"0-3, 7","mems":"0"},"pids":{"limit":-1}}`, ""},
		{`{"memory":{"limit":-2}}`, "linux.resources.memory.limit: -2"},
		{`{"memory":{"reservation":-3}}`, "linux.resources.memory.reservation"},
		{`{"memory":{"swap":-2}}`, "linux.resources.memory.swap"},
		{`{"memory":{"limit":100,"swap":50}}`, "linux.resources.memory.swap: 50"},
		{`{"memory":{"limit":-1,"swap":50}}`, "linux.resources.memory.swap: 50"},
		{`{"memory":{"limit":100,"swap":100}}`, ""},
		{`{"memory":{"kernel":-9}}`, "linux.resources.memory.kernel"},
		{`{"memory":{"kernelTCP":-9}}`, "linux.resources.memory.kernelTCP"},
		{`{"memory":{"swappiness":101}}`, "linux.resources.memory.swappiness"},
		{`{"cpu":{"period":999}}`, "linux.resources.cpu.period: 999"},
		{`{"cpu":{"period":1000001}}`, "linux.resources.cpu.period"},
		{`{"cpu":{"quota":999}}`, "linux.resources.cpu.quota"},
		{`{"cpu":{"quota":5000,"burst":5001}}`, "linux.resources.cpu.burst"},
		{`{"cpu":{"realtimePeriod":5,"realtimeRuntime":6}}`, "linux.resources.cpu.realtimeRuntime"},
		{`{"cpu":{"idle":2}}`, "linux.resources.cpu.idle"},
		{`{"cpu":{"cpus":"3-1"}}`, "linux.resources.cpu.cpus"},
		{`{"cpu":{"cpus":","}}`, "linux.resources.cpu.cpus"},
		{`{"cpu":{"mems":"x"}}`, "linux.resources.cpu.mems"},
		{`{"pids":{"limit":-7}}`, "linux.resources.pids.limit: -7"},
		{`{"blockIO":{"weight":1001}}`, "linux.resources.blockIO.weight"},
		{`{"blockIO":{"leafWeight":1001}}`, "linux.resources.blockIO.leafWeight"},
		{`{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":2000}]}}`, "linux.resources.blockIO.weightDevice.weight"},
		{`{"blockIO":{"throttleReadIOPSDevice":[{"major":-8,"minor":0,"rate":5}]}}`, "linux.resources.blockIO.throttleReadIOPSDevice: device -8:0"},
		{`{"hugepageLimits":[{"pageSize":"2MB","limit":4},{"pageSize":"2M","limit":4}]}`, "linux.resources.hugepageLimits[1].pageSize"},
		{`{"hugepageLimits":[{"pageSize":"../MB","limit":4}]}`, "linux.resources.hugepageLimits[0].pageSize"},
		{`{"network":{"classID":5,"priorities":[{"name":"eth0","priority":5}]}}`, ""},
		{`{"network":{"priorities":[{"name":"eth 0","priority":5}]}}`, "linux.resources.network.priorities[0].name"},
		{`{"rdma":{"mlx5_0":{"hcaHandles":5}}}`, ""},
		{`{"rdma":{"mlx5_0":{}}}`, `linux.resources.rdma["mlx5_0"]`},
		{`{"rdma":{"a b":{"hcaHandles":5}}}`, "linux.resources.rdma"},
		{`{"unified":{"memory.high":"5","cgroup.max.depth":"5","hugetlb.2MB.max":"0"}}`, ""},
		{`{"unified":{"../memory.high":"5"}}`, `linux.resources.unified["../memory.high"]: a file is named without slashes`},
		{`{"unified":{"memory":"5"}}`, `linux.resources.unified["memory"]`},
		{`{"unified":{".high":"5"}}`, `linux.resources.unified[".high"]`},
		{`{"unified":{"cgroup.procs":"1"}}`, `linux.resources.unified["cgroup.procs"]: it is no resource`},
		{`{"unified":{"cgroup.kill":"1"}}`, `linux.resources.unified["cgroup.kill"]`},
		{`{"devices":[{"allow":true,"type":"c","major":-1,"minor":-1,"access":"rwm"}]}`, ""},
		{`{"devices":[{"allow":true,"type":"c","major":-2,"access":"r"}]}`, "linux.resources.devices: number -2"},
		{`{"devices":[{"allow":true,"type":"x","access":"r"}]}`, "linux.resources.devices: "},
		{`{"devices":[{"allow":true,"type":"c","access":"rwz"}]}`, `linux.resources.devices: access "rwz"`},
	} {
		var r specs.LinuxResources
		if err := json.Unmarshal([]byte(c.spec), &r); err != nil {
			t.Fatal(c.spec, err)
		}
		err := Validate(&r)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, api.InvalidArgument) || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.spec, err, c.want)
		}
	}
	if err := Validate(nil); err != nil {
		t.Error(err)
	}
}

// Whatever a config says: what Validate lets through is planned without a file name that leads elsewhere, and each value is one line.
func FuzzResources(f *testing.F) {
	f.Add([]byte(`{"memory":{"limit":5,"swap":6},"unified":{"io.max":"8:0 rbps=1\n8:1 wbps=2"},"hugepageLimits":[{"pageSize":"2MB","limit":4}]}`))
	f.Add([]byte(`{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}],"rdma":{"m":{"hcaHandles":1}}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		var r specs.LinuxResources
		if json.Unmarshal(config, &r) != nil || Validate(&r) != nil {
			return
		}
		for _, l := range []*Layout{only1, only2, both} {
			knobs, err := l.plan(&r)
			if err != nil {
				continue
			}
			for _, k := range knobs {
				if strings.ContainsAny(k.file, "/\x00\n") || strings.Contains(k.value, "\n") || k.field == "" {
					t.Errorf("%+v", k)
				}
			}
		}
		if set, err := resolveDevices(r.Devices); err == nil {
			for _, insn := range set.program() {
				if insn.off < 0 {
					t.Error("the program jumps back")
				}
			}
		}
	})
}

func FuzzParseFiles(f *testing.F) {
	f.Add([]byte("c 1:3 rwm\nb *:* m\n"))
	f.Add([]byte("8:0 Read 5\n8:0 rbytes=1 dios=2\nTotal 5\n"))
	f.Add([]byte("some avg10=0.00 avg60=1.5 avg300=0 total=5\nmlx hca_handle=max hca_object=3\n"))
	f.Add([]byte("0-3,8"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if rules, ok := parseList(file); ok {
			set := deviceSet{exceptions: rules}
			var text strings.Builder
			for _, r := range rules {
				text.WriteString(r.line() + "\n")
			}
			if again, ok := parseList([]byte(text.String())); !ok || !reflect.DeepEqual(again, set.exceptions) {
				t.Errorf("%q is read as %v", text.String(), again)
			}
		}
		if ranges, err := ParseList(string(file)); err == nil {
			for _, r := range ranges {
				if r[0] < 0 || r[1] < r[0] || r[1] >= mostInList {
					t.Errorf("range %v", r)
				}
			}
		}
		bytes, ops := parseIO(file)
		s := Stats{CPU: CPU{PSI: parsePSI(file)}, Memory: Memory{Raw: fields(file)}, RDMA: &RDMA{Current: parseRDMA(file)},
			Blkio: Blkio{Sectors: parseBlkio(file), ServiceBytes: bytes, Serviced: ops}}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
		for _, pid := range parsePids(nil, file) {
			if pid <= 0 {
				t.Error(pid)
			}
		}
	})
}

// The names are runc's (types/events.go): a reader of `runc events --stats` finds all that it knows.
func TestStatsJSON(t *testing.T) {
	entry := []BlkioEntry{{8, 16, "Read", 5}}
	psi := &PSI{PSIData{1, 2, 3, 4}, PSIData{5, 6, 7, 8}}
	b, err := json.Marshal(&Stats{
		CPU:    CPU{CPUUsage{1, []uint64{2}, []uint64{3}, []uint64{4}, 5, 6}, Throttling{7, 8, 9}, psi},
		Memory: Memory{1, MemoryEntry{2, 3, 4, 5}, MemoryEntry{}, MemoryEntry{}, MemoryEntry{}, map[string]uint64{"anon": 1}, psi},
		Pids:   Pids{1, 2}, Blkio: Blkio{entry, entry, entry, entry, entry, entry, entry, entry, psi},
		Hugetlb: map[string]Hugetlb{"2MB": {1, 2, 3}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const p = `{"some":{"avg10":1,"avg60":2,"avg300":3,"total":4},"full":{"avg10":5,"avg60":6,"avg300":7,"total":8}}`
	const e = `[{"major":8,"minor":16,"op":"Read","value":5}]`
	const none = `{"limit":0,"failcnt":0}`
	want := `{"cpu":{"usage":{"total":1,"percpu":[2],"percpu_kernel":[3],"percpu_user":[4],"kernel":5,"user":6},` +
		`"throttling":{"periods":7,"throttledPeriods":8,"throttledTime":9},"psi":` + p + `},` +
		`"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,` +
		`"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},` +
		`"memory":{"cache":1,"usage":{"limit":2,"usage":3,"max":4,"failcnt":5},"swap":` + none + `,"kernel":` + none + `,"kernelTCP":` + none + `,"raw":{"anon":1},"psi":` + p + `},` +
		`"pids":{"current":1,"limit":2},"blkio":{"ioServiceBytesRecursive":` + e + `,"ioServicedRecursive":` + e + `,"ioQueueRecursive":` + e +
		`,"ioServiceTimeRecursive":` + e + `,"ioWaitTimeRecursive":` + e + `,"ioMergedRecursive":` + e + `,"ioTimeRecursive":` + e + `,"sectorsRecursive":` + e + `,"psi":` + p + `},` +
		`"hugetlb":{"2MB":{"usage":1,"max":2,"failcnt":3}}}`
	if string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
}
