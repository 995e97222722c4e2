package cli

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

func TestMergeEnv(t *testing.T) {
	for _, x := range []struct{ base, over, want []string }{
		{nil, nil, []string{}},
		{[]string{"A=1", "B=2"}, nil, []string{"A=1", "B=2"}},
		{[]string{"A=1", "B=2"}, []string{"C=3", "A=x"}, []string{"A=x", "B=2", "C=3"}},
		{[]string{"A=1", "B=2"}, []string{"A"}, []string{"B=2"}},
		{[]string{"AB=1"}, []string{"A=", "A"}, []string{"AB=1"}},
	} {
		base := slices.Clone(x.base)
		if got := mergeEnv(x.base, x.over); !slices.Equal(got, x.want) || !slices.Equal(base, x.base) {
			t.Errorf("%q over %q: %q, want %q; the base is now %q", x.over, base, got, x.want, x.base)
		}
	}
}

// TestConfigView holds what inspect says the container runs against docker's rules of merging.
func TestConfigView(t *testing.T) {
	img := imagespec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}, User: "img", WorkingDir: "/img", StopSignal: "SIGINT"}
	for name, x := range map[string]struct {
		spec            api.ContainerSpec
		entrypoint, cmd []string
		user            string
	}{
		"image's":          {api.ContainerSpec{}, []string{"entry"}, []string{"cmd"}, "img"},
		"command":          {api.ContainerSpec{Command: []string{"mine"}}, []string{"entry"}, []string{"mine"}, "img"},
		"entrypoint":       {api.ContainerSpec{Entrypoint: &[]string{"sh"}, User: "me"}, []string{"sh"}, nil, "me"},
		"no entrypoint":    {api.ContainerSpec{Entrypoint: &[]string{}, Command: []string{"c"}}, nil, []string{"c"}, "img"},
		"both as the user": {api.ContainerSpec{Entrypoint: &[]string{"sh"}, Command: []string{"-c"}}, []string{"sh"}, []string{"-c"}, "img"},
	} {
		v := configView(&api.Container{ID: testID, Spec: x.spec, ImageConfig: img})
		if !slices.Equal(v.Entrypoint, x.entrypoint) || !slices.Equal(v.Cmd, x.cmd) || v.User != x.user || v.WorkingDir != "/img" || v.StopSignal != "SIGINT" {
			t.Errorf("%s: %+v", name, v)
		}
		if v.Hostname != testID[:12] {
			t.Errorf("%s: hostname %s", name, v.Hostname)
		}
	}
	if v := configView(&api.Container{Spec: api.ContainerSpec{Hostname: "box"}}); v.Hostname != "box" || v.Labels == nil {
		t.Errorf("%+v", v)
	}
}

func TestStateView(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	exit := &api.Exit{Code: 9, OOMKilled: true, Error: "why", At: at}
	for _, x := range []struct {
		state                         api.State
		running, paused, dead, killed bool
		code                          int
	}{
		{api.State{Status: api.StatusCreated}, false, false, false, false, 0},
		{api.State{Status: api.StatusRunning, Exit: exit}, true, false, false, false, 0}, // of the run before
		{api.State{Status: api.StatusPaused}, true, true, false, false, 0},
		{api.State{Status: api.StatusExited, Exit: exit}, false, false, false, true, 9},
		{api.State{Status: api.StatusDead}, false, false, true, false, 0},
	} {
		v := stateView(x.state)
		if v.Running != x.running || v.Paused != x.paused || v.Dead != x.dead || v.OOMKilled != x.killed || v.ExitCode != x.code || v.Status != string(x.state.Status) {
			t.Errorf("%+v: %+v", x.state, v)
		}
		if want := x.state.Exit != nil; want != (v.FinishedAt == "2026-01-02T03:04:05Z") {
			t.Errorf("%+v: finished at %s", x.state, v.FinishedAt)
		}
	}
}

func TestNetworkView(t *testing.T) {
	c := &api.Container{Spec: api.ContainerSpec{Network: api.NetworkSpec{Mode: "host"}}, Link: &api.Link{Network: "host"}}
	v := networkView(c)
	if _, ok := v.Networks["host"]; !ok || len(v.Networks) != 1 || v.IPAddress != "" {
		t.Errorf("%+v", v)
	}
	c = &api.Container{ImageConfig: imagespec.ImageConfig{ExposedPorts: map[string]struct{}{"80": {}}}}
	if v := networkView(c); len(v.Ports) != 0 || v.Networks["bridge"].IPAddress != "" {
		t.Errorf("a stopped container has %+v", v)
	}
}

func TestHostConfigView(t *testing.T) {
	v := hostConfigView(&api.ContainerSpec{
		AutoRemove: true, ReadOnly: true, Privileged: true,
		Network: api.NetworkSpec{Ports: []api.PortSpec{{ContainerPort: 53, Protocol: "udp"}}},
		Mounts:  []api.MountSpec{{Type: "volume", Target: "/anonymous"}},
	})
	if !v.AutoRemove || !v.ReadonlyRootfs || !v.Privileged || v.PidsLimit != nil || v.Init != nil || len(v.Binds) != 0 {
		t.Errorf("%+v", v)
	}
	if b := v.PortBindings["53/udp"]; len(b) != 1 || b[0] != (portBinding{}) {
		t.Errorf("a port on any free host port: %+v", b)
	}
}

func TestImageViewNames(t *testing.T) {
	for name, want := range map[string][2][]string{
		"":                             {nil, nil},
		"docker.io/library/debian:12":  {{"debian:12"}, {"debian@sha256:t"}},
		"host:5000/app@sha256:d":       {nil, {"host:5000/app@sha256:d"}},
		"host:5000/app:v1@sha256:d":    {{"host:5000/app:v1"}, {"host:5000/app@sha256:d"}},
		"docker.io/team/app:x-1.2_3.4": {{"team/app:x-1.2_3.4"}, {"team/app@sha256:t"}},
	} {
		img := api.Image{Name: name, Platform: "linux/amd64"}
		img.Target.Digest = "sha256:t"
		d := api.ImageDetail{Image: img}
		if name != "" {
			d.Names = []string{name}
		}
		v := imageView(&d)
		if !slices.Equal(v.RepoTags, want[0]) || !slices.Equal(v.RepoDigests, want[1]) {
			t.Errorf("%q: %q and %q, want %q", name, v.RepoTags, v.RepoDigests, want)
		}
		if v.Os != "linux" || v.Architecture != "amd64" || v.Variant != "" {
			t.Errorf("%q: %+v", name, v)
		}
	}
	if v := imageView(&api.ImageDetail{}); v.Os != "" || v.RootFS.Layers == nil {
		t.Errorf("an image that knows nothing: %+v", v)
	}
}

func TestCutTable(t *testing.T) {
	for format, want := range map[string]struct {
		text  string
		table bool
	}{
		"": {"usual", true}, "table": {"usual", true}, "table {{.ID}}": {"{{.ID}}", true}, `table\t{{.ID}}`: {"{{.ID}}", true},
		"table{{.ID}}": {"{{.ID}}", true}, "{{.ID}}": {"{{.ID}}", false}, "x": {"x", false},
	} {
		if text, table := cutTable(format, "usual"); text != want.text || table != want.table {
			t.Errorf("%q: %q %t, want %q %t", format, text, table, want.text, want.table)
		}
	}
}

func TestFilters(t *testing.T) {
	f := filters{}
	add := f.add("name", "label")
	for _, s := range []string{"name=a", " NAME = b ", "label=k=v"} {
		if err := add(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"name", "colour=red", "=x"} {
		if err := add(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	if !slices.Equal(f["name"], []string{"a", "b"}) || !f.labelled(map[string]string{"k": "v"}) || f.labelled(map[string]string{"k": "w"}) || f.labelled(nil) {
		t.Errorf("%v", f)
	}
	if !f.any("absent", func(string) bool { return false }) || f.any("name", func(v string) bool { return v == "c" }) {
		t.Error("any")
	}
}

func TestEllipsis(t *testing.T) {
	for s, want := range map[string]string{"": "", "12345": "12345", "123456": "1234…", "äöüßéè": "äöüß…"} {
		if got := ellipsis(s, 5); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

// TestDockerFields: what docker documents for --format of its lists (docs.docker.com/reference/cli, "Formatting") is there, under docker's name.
func TestDockerFields(t *testing.T) {
	for _, c := range []struct {
		verb   string
		row    any
		fields string
	}{
		{"ps", psRow{}, "ID Image Command CreatedAt RunningFor Ports State Status Size Names Labels Mounts Networks LocalVolumes"},
		{"ps, podman", psRow{}, "Pod PodName Created ExitCode ImageID Pid Restarts"},
		{"images", imageRow{}, "ID Repository Tag Digest CreatedSince CreatedAt Size Containers SharedSize UniqueSize VirtualSize"},
		{"history", historyRow{}, "ID CreatedSince CreatedAt CreatedBy Size Comment"},
		{"stats", statsRow{}, "Container Name ID CPUPerc MemUsage NetIO BlockIO MemPerc PIDs"},
		{"volume ls", volumeRow{}, "Name Driver Scope Mountpoint Labels Status Links Size Availability Group"},
		{"pod ps", podRow{}, "Cgroup ContainerIds ContainerNames ContainerStatuses Created ID InfraID Labels Name Namespace Networks NumberOfContainers Restarts Status"},
		{"events", eventView{}, "Type Action Actor Scope Time TimeNano Status ID From"},
		{"info", infoView{}, "Containers ContainersRunning ContainersPaused ContainersStopped Images Driver CgroupDriver CgroupVersion KernelVersion OperatingSystem OSType " +
			"Architecture NCPU MemTotal Name ServerVersion DockerRootDir SecurityOptions LoggingDriver Warnings ID DriverStatus Plugins MemoryLimit SwapLimit CPUShares CPUSet PidsLimit " +
			"OomKillDisable IPv4Forwarding Debug SystemTime OSVersion IndexServerAddress GenericResources NoProxy Labels ExperimentalBuild Runtimes DefaultRuntime Swarm LiveRestoreEnabled InitBinary " +
			"CDISpecDirs DefaultAddressPools ClientInfo Host Store Version"},
	} {
		for _, f := range strings.Fields(c.fields) {
			if _, ok := reflect.TypeOf(c.row).FieldByName(f); !ok {
				t.Errorf("%s: no field %s", c.verb, f)
			}
		}
	}
}
