package cli

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// house is an engine with a few containers and images in it.
func house() *fake {
	now := time.Now()
	on := func(d time.Duration) time.Time { return now.Add(-d) }
	pids := int64(100)
	web := api.Container{
		ID: testID, Name: "web", Created: on(2 * time.Hour), Image: "sha256:aaaabbbbccccdddd", ImageName: "nginx:1",
		Args: []string{"nginx", "-g", "daemon off; # with a long tail"},
		Spec: api.ContainerSpec{
			Image: "nginx:1", Labels: map[string]string{"env": "test", "a": "1"}, Env: []string{"A=2", "HOME", "C=3"},
			Network: api.NetworkSpec{Ports: []api.PortSpec{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}, AddHosts: []api.HostSpec{{Name: "h", IP: "1.2.3.4"}}},
			Mounts: []api.MountSpec{
				{Type: "bind", Source: "/srv/a/long/way/down", Target: "/w", ReadOnly: true}, {Type: "volume", Source: "vol", Target: "/v"},
				{Type: "tmpfs", Target: "/t", TmpfsOptions: []string{"size=1m", "ro"}}},
			Limits: api.Resources{Memory: 1 << 20, NanoCPUs: 5e8, Pids: pids}, CapAdd: []string{"CAP_NET_ADMIN"}, Init: true,
			Devices: []api.DeviceSpec{{Source: "/dev/fuse", Target: "/dev/fuse", Permissions: "rwm"}},
			Ulimits: []api.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
		},
		ImageConfig: imagespec.ImageConfig{
			Env: []string{"PATH=/bin", "A=1", "HOME=/x"}, Cmd: []string{"-g", "daemon off; # with a long tail"}, Entrypoint: []string{"nginx"}, WorkingDir: "/",
			ExposedPorts: map[string]struct{}{"80/tcp": {}, "443": {}}, Labels: map[string]string{"from": "image"}, StopSignal: "SIGQUIT",
		},
		State: api.State{Status: api.StatusRunning, Pid: 42, StartedAt: on(5 * time.Minute)},
		Link: &api.Link{
			Network: "bridge", Interface: "eth0", MAC: "02:00:00:00:00:01", Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")},
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/16"), netip.MustParsePrefix("fd00::2/64")},
			Ports:     []api.PortSpec{{HostIP: "0.0.0.0", HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {HostIP: "::", HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
		},
	}
	job := api.Container{
		ID: strings.Repeat("b", 64), Name: "job", Created: on(time.Hour), ImageName: "sha256:" + strings.Repeat("c", 64), Image: "sha256:" + strings.Repeat("c", 64), Args: []string{"true"},
		State: api.State{Status: api.StatusExited, StartedAt: on(time.Hour), Exit: &api.Exit{Code: 3, At: on(40 * time.Second), OOMKilled: true, Error: "why"}},
		Spec:  api.ContainerSpec{Network: api.NetworkSpec{Mode: "none"}, Labels: map[string]string{"env": "prod"}},
	}
	fresh := api.Container{ID: strings.Repeat("d", 64), Name: "fresh", Created: on(30 * 24 * time.Hour), ImageName: "debian", Args: []string{"sh"}, State: api.State{Status: api.StatusCreated}}
	debian := api.Image{
		Name: "docker.io/library/debian:12", ID: "sha256:" + strings.Repeat("1", 64), Platform: "linux/arm64/v8", Created: on(21 * 24 * time.Hour),
		Layers: []api.Layer{{DiffID: "sha256:l1", Size: 116_000_000}, {DiffID: "sha256:l2", Size: 512_345}},
		Config: imagespec.ImageConfig{Cmd: []string{"bash"}, Env: []string{"PATH=/bin"}, Labels: map[string]string{"os": "deb"}},
	}
	debian.Target.Digest = "sha256:2222"
	loose := api.Image{ID: "sha256:" + strings.Repeat("3", 64), Platform: "linux/amd64", Created: on(3 * 365 * 24 * time.Hour)}
	app := api.Image{Name: "localhost:5000/team/app:v1", ID: debian.ID, Platform: "linux/amd64", Created: on(time.Hour), Layers: []api.Layer{{Size: 999}}}
	return &fake{containers: []api.Container{fresh, web, job}, imgs: []api.Image{loose, debian, app}}
}

func TestPsOutput(t *testing.T) {
	var all strings.Builder
	for _, line := range []string{
		"ps", "ps -a", "ps --no-trunc -a", "ps -n 2", "ps -l", "ps -aq", "ps -q --no-trunc",
		"ps --filter status=exited", "ps --filter exited=3 -q", "ps --filter exited=0 -q", "ps -a --filter name=^we -q", "ps -a --filter name=/job -q",
		"ps -a --filter id=bbbb -q", "ps -a --filter label=env -q", "ps -a --filter label=env=prod -q", "ps -a --filter label=env --filter label=a=1 -q",
		"ps -a --filter ancestor=nginx:1 -q", "ps -a --filter ancestor=debian:latest -q", "ps -a --filter ancestor=aaaabbbb -q",
		"ps --filter name=web --filter name=job -a -q",
		`ps -a --format {{.Names}}\t{{.State}}\t{{.Networks}}`, "ps --format table",
		`ps --format table\t{{.ID}}`,
	} {
		all.WriteString("$ brig " + line + "\n" + brig(t, house(), strings.Fields(line)...).out)
	}
	all.WriteString("$ table\n" + brig(t, house(), "ps", "-a", "--format", `table {{.Names}}\t{{.Label "env"}}\t{{.Mounts}}\t{{.LocalVolumes}}`).out)
	all.WriteString("$ functions\n" + brig(t, house(), "ps", "--format", `{{json .Names}} {{upper .State}} {{.Names | title}} {{join (split .Names "e") "-"}} {{truncate .Names 2}}{{pad .Names 1 2}}|`).out)
	golden(t, "ps.txt", all.String())
	brig(t, house(), "ps", "--filter", "name=(").complains(t, 1, "brig: invalid filter name=(")
	brig(t, house(), "ps", "--format", "{{.Nonsense}}").complains(t, 1, "brig: template")
}

func TestPsJSON(t *testing.T) {
	r := brig(t, house(), "ps", "-a", "--format", "json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), r.out)
	}
	var row map[string]string
	if err := json.Unmarshal([]byte(lines[1]), &row); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"ID": testID[:12], "Names": "web", "Image": "nginx:1", "State": "running", "Status": "Up 5 minutes", "RunningFor": "2 hours ago",
		"Ports": "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp", "Labels": "a=1,env=test", "Networks": "bridge", "Size": "0B", "LocalVolumes": "1",
	} {
		if row[key] != want {
			t.Errorf("%s is %q, want %q", key, row[key], want)
		}
	}
}

func TestStatusText(t *testing.T) {
	now := time.Now()
	for want, s := range map[string]api.State{
		"Up Less than a second":  {Status: api.StatusRunning, StartedAt: now},
		"Up 3 seconds (Paused)":  {Status: api.StatusPaused, StartedAt: now.Add(-3 * time.Second)},
		"Exited":                 {Status: api.StatusExited},
		"Exited (0) 2 weeks ago": {Status: api.StatusExited, Exit: &api.Exit{At: now.Add(-15 * 24 * time.Hour)}},
		"Dead":                   {Status: api.StatusDead},
		"Created":                {Status: api.StatusCreated},
	} {
		if got := statusText(&api.Container{State: s}, now); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

func TestPortsText(t *testing.T) {
	p := func(ip string, host, container uint16, proto string) api.PortSpec {
		return api.PortSpec{HostIP: ip, HostPort: host, ContainerPort: container, Protocol: proto}
	}
	for want, ports := range map[string][]api.PortSpec{
		"": nil,
		"0.0.0.0:8000-8002->80-82/tcp, [::]:8000->80/tcp": {p("0.0.0.0", 8001, 81, "tcp"), p("::", 8000, 80, "tcp"), p("", 8002, 82, "tcp"), p("0.0.0.0", 8000, 80, "tcp")},
		"127.0.0.1:53->53/tcp, 127.0.0.1:53->53/udp":      {p("127.0.0.1", 53, 53, "udp"), p("127.0.0.1", 53, 53, "tcp")},
		"0.0.0.0:8000->80/tcp, 0.0.0.0:9000->81/tcp":      {p("0.0.0.0", 8000, 80, "tcp"), p("0.0.0.0", 9000, 81, "tcp")},
	} {
		for i := range ports {
			ports[i].HostIP = hostIP(ports[i])
		}
		if got := portsText(ports); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestImagesOutput(t *testing.T) {
	var all strings.Builder
	for _, line := range []string{
		"images", "images --digests", "images --no-trunc", "images -q", "images debian", "images debian:12", "images debian:11", "images -q --filter dangling=true",
		"images -q --filter dangling=false --no-trunc", "images --filter label=os=deb -q", "images --filter reference=localhost:5000/team/*",
		"images --filter reference=deb* --format {{.Repository}}:{{.Tag}}", "images --filter reference=docker.io/library/debian -q",
	} {
		all.WriteString("$ brig " + line + "\n" + brig(t, house(), strings.Fields(line)...).out)
	}
	golden(t, "images.txt", all.String())
	brig(t, house(), "images", "--filter", "dangling=maybe").complains(t, 1, "brig: invalid filter 'dangling=maybe'")
	brig(t, house(), "images", "[").complains(t, 1, "brig: invalid filter 'reference=['")
	var row map[string]string
	r := brig(t, house(), "images", "debian", "--format", "json")
	if err := json.Unmarshal([]byte(r.out), &row); err != nil || row["Tag"] != "12" || row["Size"] != "117MB" || row["CreatedSince"] != "3 weeks ago" {
		t.Errorf("%v, %v", row, err)
	}
}

func TestInspectOutput(t *testing.T) {
	f := house()
	moment := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	for i := range f.containers {
		c := &f.containers[i]
		c.Created, c.State.StartedAt = moment, moment
		if c.State.Exit != nil {
			c.State.Exit.At = moment
		}
	}
	for i := range f.imgs {
		f.imgs[i].Created = moment
	}
	r := brig(t, f, "--root", "/var/lib/brig", "inspect", "web", "nothing", "job", "debian:12")
	r.complains(t, 1, "brig: no such object: nothing\n")
	golden(t, "inspect.json", r.out)
	var objects []map[string]any
	if err := json.Unmarshal([]byte(r.out), &objects); err != nil || len(objects) != 3 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	for format, want := range map[string]string{
		"{{.State.Status}} {{.State.Running}} {{.State.Pid}}": "running true 42",
		"{{.Id}}":                        testID,
		"{{.ID}}":                        testID,
		"{{.Name}} {{.Image}}":           "/web sha256:aaaabbbbccccdddd",
		"{{.NetworkSettings.IPAddress}}": "10.1.0.2",
		"{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}":                                "10.1.0.2",
		"{{.NetworkSettings.Networks.bridge.GlobalIPv6Address}}":                                  "fd00::2",
		`{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}`:                          "8080",
		"{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{range $c}}{{.HostIp}}{{end}};{{end}}": "443/tcp ;80/tcp 0.0.0.0::;",
		`{{index .Config.Labels "env"}} {{json .Config.Cmd}}`:                                     `test ["-g","daemon off; # with a long tail"]`,
		"{{range .Mounts}}{{.Destination}}={{.Source}} {{end}}":                                   "/w=/srv/a/long/way/down /v=/var/lib/brig/volume/vol/data /t= ",
		"{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}":                                         "1048576 500000000",
		"{{.State.StartedAt}} {{.State.FinishedAt}}":                                              "2026-01-02T03:04:05.0000006Z 0001-01-01T00:00:00Z",
	} {
		r := brig(t, f, "--root", "/var/lib/brig", "inspect", "-f", format, "web")
		r.wants(t, 0, want+"\n")
	}
}

func TestInspectChoice(t *testing.T) {
	f := house()
	f.imgs[0].Name = "docker.io/library/web" // as the container
	brig(t, f, "inspect", "-f", "{{.Name}}", "web").wants(t, 0, "/web\n")
	brig(t, f, "inspect", "--type", "image", "-f", "{{.Os}}/{{.Architecture}}{{.Variant}}", "web").wants(t, 0, "linux/amd64\n")
	brig(t, f, "inspect", "--type", "image", "-f", "{{.Os}}/{{.Architecture}}/{{.Variant}}", "debian:12").wants(t, 0, "linux/arm64/v8\n")
	brig(t, f, "inspect", "--type", "container", "debian:12").wants(t, 1, "[]\n")
	brig(t, f, "inspect", "--type", "image", "job").complains(t, 1, "brig: no such image: job\n")
	brig(t, f, "inspect", "--type", "volume", "x").complains(t, 125, "brig: invalid argument \"volume\"")
	brig(t, f, "inspect", "-f", "{{.Nonsense}}", "web").complains(t, 1, "brig: template")
	if r := brig(t, f, "inspect", "-f", "json", "web"); !strings.HasPrefix(r.out, `{"Id":"`+testID) || strings.Count(r.out, "\n") != 1 {
		t.Errorf("json: %s", r.out)
	}
}

func TestInfoAndVersion(t *testing.T) {
	f := &fake{info: api.Info{
		Version: "1.2", Root: "/r", State: "/s", Containers: 3, Running: 1, Stopped: 2, Images: 4, KernelVersion: "6.18", OperatingSystem: "Debian", OSType: "linux",
		Architecture: "x86_64", CPUs: 2, Memory: 8 << 30, CgroupVersion: "1", CgroupDriver: "cgroupfs", StorageDriver: "overlay", Hostname: "box",
		Isolation:       []api.IsolationState{{Level: "container", Available: true}, {Level: "vm", Reason: "not built"}},
		SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"}, Warnings: []string{"no swap limit"},
	}}
	r := brig(t, f, "info")
	golden(t, "info.txt", r.out)
	r.complains(t, 0, "WARNING: no swap limit\n")
	brig(t, f, "info", "-f", "{{.ServerVersion}} {{.NCPU}} {{.MemTotal}} {{.CgroupVersion}} {{.Driver}} {{.DockerRootDir}} {{json .Warnings}}").
		wants(t, 0, "1.2 2 8589934592 1 overlay /r [\"no swap limit\"]\n")
	f.info.Controllers, f.info.OSRelease, f.info.Filesystem = []string{"memory", "pids"}, []string{"ID=debian", "VERSION_ID=12"}, "extfs"
	brig(t, f, "info", "-f", "{{.Swarm.LocalNodeState}} {{.DefaultRuntime}} {{len .Runtimes}} {{.MemoryLimit}} {{.CPUSet}} {{.OSVersion}} {{.Plugins.Volume}} {{.DriverStatus}} {{.ClientInfo.Version}}").
		wants(t, 0, "inactive brig-oci 1 true false 12 [local] [[Backing Filesystem extfs]] "+Version+"\n")
	brig(t, f, "info", "-f", "{{.Host.CgroupsVersion}} {{.Host.OCIRuntime.Name}} {{.Host.Distribution.Distribution}} {{.Store.ContainerStore.Number}} {{.Store.GraphRoot}} {{.Version.Version}}").
		wants(t, 0, "v1 brig-oci debian 3 /r 1.2\n")
	brig(t, f, "info", "-f", "{{.host.cgroupVersion}} {{.host.security.rootless}} {{.store.imageStore.number}} {{.version.Version}}").wants(t, 0, "v1 false 4 1.2\n")
	var view map[string]any
	if err := json.Unmarshal([]byte(brig(t, f, "info", "--format", "json").out), &view); err != nil || view["ContainersRunning"] != 1.0 {
		t.Errorf("%v %v", view, err)
	}
	brig(t, f, "version", "-f", "{{.Client.Version}} {{.Server.Os}}").wants(t, 0, Version+" linux\n")
	if err := json.Unmarshal([]byte(brig(t, f, "version", "--format", "json").out), &view); err != nil {
		t.Error(err)
	}
	if r := brig(t, f, "version"); !strings.HasPrefix(r.out, "Brig:\n Version:     "+Version) {
		t.Error(r.out)
	}
	brig(t, f, "--version").wants(t, 0, "Brig version "+Version+"\n")
}

func TestCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"start ":         "job fresh",
		"stop ":          "web",
		"rm ":            "job web fresh",
		"rm|job|":        "web fresh",
		"logs w":         "web",
		"exec|web|l":     "",
		"rmi ":           "debian:12 localhost:5000/team/app:v1",
		"run de":         "debian:12",
		"inspect ":       "job web fresh debian:12 localhost:5000/team/app:v1",
		"--debug|kill|w": "web",
	} {
		sep := " "
		if strings.Contains(line, "|") {
			sep = "|"
		}
		r := brig(t, house(), append([]string{"__completeNoDesc"}, strings.Split(line, sep)...)...)
		got := map[string]bool{}
		for _, l := range strings.Split(strings.TrimSpace(r.out), "\n") {
			if !strings.HasPrefix(l, ":") && l != "" {
				got[l] = true
			}
		}
		for _, w := range strings.Fields(want) {
			if !got[w] {
				t.Errorf("%q lacks %s:\n%s%s", line, w, r.out, r.errOut)
			}
		}
		if len(got) != len(strings.Fields(want)) {
			t.Errorf("%q offers %v, want %s", line, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := brig(t, &fake{}, "completion", shell); r.code != 0 || !strings.Contains(r.out, "brig") {
			t.Errorf("completion %s: %+v", shell, r)
		}
	}
}
