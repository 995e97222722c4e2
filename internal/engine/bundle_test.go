package engine

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/record"
)

// TestConfigReadsTheSame: config.json is written by package record and read by encoding/json, in the shim and by other runtimes.
func TestConfigReadsTheSame(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "test")
	c := &api.Container{
		ID: "aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899", Name: "x", Created: time.Now(), Args: []string{"sh", "-c", "echo \"ä\n\x01\""},
		Spec: api.ContainerSpec{
			Image: "brig/base", TTY: true, Privileged: true, Init: true, ReadOnly: true, Env: []string{"A=<&>", "B=\u2028"},
			Limits:  api.Resources{Memory: 64 << 20, NanoCPUs: 15e8, Pids: 100},
			Ulimits: []api.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}},
			Mounts:  []api.MountSpec{{Type: "bind", Source: t.TempDir(), Target: "/b", ReadOnly: true}, {Type: "tmpfs", Target: "/t", TmpfsSize: 1 << 20}},
			Devices: []api.DeviceSpec{{Source: "/dev/null", Target: "/dev/nothing", Permissions: "rw"}},
		},
	}
	spec, err := e.ociSpec(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.ConsoleSize = &specs.Box{Height: 24, Width: 80}
	data, err := record.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var got, want specs.Spec
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	plain, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("record wrote %s\nwant %s", data, plain)
	}
}
