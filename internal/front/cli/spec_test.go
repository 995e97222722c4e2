package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"brig/api"
)

// TestSpec holds the flags of run against the spec that the engine gets.
func TestSpec(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("FROM_HOME", "yes")
	write(t, "env", "\ufeff# comment\n\n  A=1\nFROM_HOME\nUNSET_AT_HOME\nB=with = and # and \"quotes\"  \n")
	write(t, "labels", "one=1\ntwo\n")
	seconds := 3
	port := func(ip string, host, container uint16, protocol string) api.PortSpec {
		return api.PortSpec{HostIP: ip, HostPort: host, ContainerPort: container, Protocol: protocol}
	}
	ports := func(p ...api.PortSpec) api.ContainerSpec {
		return api.ContainerSpec{Network: api.NetworkSpec{Ports: p}}
	}
	mounts := func(m ...api.MountSpec) api.ContainerSpec { return api.ContainerSpec{Mounts: m} }
	for flags, want := range map[string]api.ContainerSpec{
		"":                                   {},
		"-i -t --rm --init --privileged":     {Interactive: true, TTY: true, AutoRemove: true, Init: true, Privileged: true},
		"-it --read-only --name n":           {Interactive: true, TTY: true, ReadOnly: true, Name: "n"},
		"-e A=b -e C= --env D=e=f":           {Env: []string{"A=b", "C=", "D=e=f"}},
		"-e FROM_HOME -e UNSET_AT_HOME":      {Env: []string{"FROM_HOME=yes", "UNSET_AT_HOME"}},
		"-e A=2 --env-file env":              {Env: []string{"A=1", "FROM_HOME=yes", "B=with = and # and \"quotes\"  ", "A=2"}},
		"-l a=b -l c --label-file labels":    {Labels: map[string]string{"a": "b", "c": "", "one": "1", "two": ""}},
		"-l one=x --label-file labels":       {Labels: map[string]string{"one": "x", "two": ""}},
		"-w /src -u 1000:100":                {WorkingDir: "/src", User: "1000:100"},
		"--entrypoint sh":                    {Entrypoint: &[]string{"sh"}},
		"--entrypoint=":                      {Entrypoint: &[]string{}},
		"--stop-signal INT --stop-timeout 3": {StopSignal: "INT", StopTimeout: &seconds},
		"-m 512m --cpus 1.5":                 {Limits: api.Resources{Memory: 512 << 20, NanoCPUs: 1500000000}},
		"--memory 1GiB --cpus .000000001":    {Limits: api.Resources{Memory: 1 << 30, NanoCPUs: 1}},
		"--pids-limit -1":                    {Limits: api.Resources{Pids: -1}},
		"--ulimit nofile=1024:2048 --ulimit core=-1": {Ulimits: []api.Ulimit{
			{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}}},
		"--cap-add net_admin --cap-add ALL --cap-drop CAP_chown": {CapAdd: []string{"CAP_NET_ADMIN", "ALL"}, CapDrop: []string{"CAP_CHOWN"}},
		"--security-opt seccomp=unconfined --security-opt no-new-privileges --security-opt no-new-privileges:true": {
			Security: []string{"seccomp=unconfined", "no-new-privileges", "no-new-privileges=true"}},
		"--security-opt nesting --security-opt nesting:true": {Security: []string{"nesting", "nesting=true"}},
		"--systemd always": {Systemd: api.SystemdAlways},
		"--systemd=false":  {Systemd: api.SystemdFalse},
		"--systemd=true":   {},
		"--device /dev/fuse --device /dev/a:/dev/b --device /dev/c:r --device /dev/d:/dev/e:rw": {Devices: []api.DeviceSpec{
			{Source: "/dev/fuse", Target: "/dev/fuse", Permissions: "rwm"}, {Source: "/dev/a", Target: "/dev/b", Permissions: "rwm"},
			{Source: "/dev/c", Target: "/dev/c", Permissions: "r"}, {Source: "/dev/d", Target: "/dev/e", Permissions: "rw"}}},
		"--pull always --platform linux/ARM64/v8 -q": {Pull: api.PullAlways, Platform: "linux/arm64/v8"},
		"--isolation container":                      {Isolation: api.IsolationContainer},
		"--isolation vm":                             {Isolation: api.IsolationVM},
		"--isolation default":                        {Isolation: api.IsolationContainer},
		"--isolation container,userns -v /a:/a -v /b:/b:noidmap": {Isolation: api.IsolationContainer, UserNS: api.UserNS{Mode: api.UserNSAuto}, Mounts: []api.MountSpec{
			{Type: "bind", Source: "/a", Target: "/a", CreateSource: true, IDMap: api.IDMapUserNS}, {Type: "bind", Source: "/b", Target: "/b", CreateSource: true, IDMap: api.IDMapNone}}},
		"--isolation container,userns --userns auto:size=9": {Isolation: api.IsolationContainer, UserNS: api.UserNS{Mode: api.UserNSAuto, Size: 9}},
		"--network none -h box":                             {Network: api.NetworkSpec{Mode: "none"}, Hostname: "box"},
		"--net host":                                        {Network: api.NetworkSpec{Mode: "host"}},
		"--network default":                                 {},
		"--network blue":                                    {Network: api.NetworkSpec{Mode: api.NetworkOwn, Networks: []api.EndpointSpec{{Network: "blue"}}}},
		"--network blue --network-alias a --network-alias b --ip 10.0.0.5 --ip6 fd00::5 --mac-address 02:42:00:00:00:05": {Network: api.NetworkSpec{Mode: api.NetworkOwn,
			Networks: []api.EndpointSpec{{Network: "blue", Aliases: []string{"a", "b"}, IPv4: "10.0.0.5", IPv6: "fd00::5", MAC: "02:42:00:00:00:05"}}}},
		"--network name=blue,alias=a,alias=b,ip=10.0.0.5,mac-address=02:42:00:00:00:05 --network red:ip=fd00::5,alias=c": {Network: api.NetworkSpec{Mode: api.NetworkOwn,
			Networks: []api.EndpointSpec{{Network: "blue", Aliases: []string{"a", "b"}, IPv4: "10.0.0.5", MAC: "02:42:00:00:00:05"}, {Network: "red", Aliases: []string{"c"}, IPv6: "fd00::5"}}}},
		"--network bridge --network blue":     {Network: api.NetworkSpec{Mode: "bridge", Networks: []api.EndpointSpec{{Network: "blue"}}}},
		"--mac-address 02:42:00:00:00:05":     {Network: api.NetworkSpec{Mode: "bridge", MAC: "02:42:00:00:00:05"}},
		"-p 8000-8010:80":                     {Network: api.NetworkSpec{Ports: []api.PortSpec{{HostPort: 8000, HostPortEnd: 8010, ContainerPort: 80, Protocol: "tcp"}}}},
		"-p 80:80/sctp":                       {Network: api.NetworkSpec{Ports: []api.PortSpec{{HostPort: 80, ContainerPort: 80, Protocol: "sctp"}}}},
		"--network pasta":                     {Network: api.NetworkSpec{Mode: "pasta"}},
		"--dns 1.1.1.1 --dns 2606:4700::1111": {Network: api.NetworkSpec{DNS: []string{"1.1.1.1", "2606:4700::1111"}}},
		"--add-host a:1.2.3.4 --add-host b=[::1] --add-host c:host-gateway --add-host d:::2": {Network: api.NetworkSpec{AddHosts: []api.HostSpec{
			{Name: "a", IP: "1.2.3.4"}, {Name: "b", IP: "::1"}, {Name: "c", IP: "host-gateway"}, {Name: "d", IP: "::2"}}}},

		"-p 80":                         ports(port("", 0, 80, "tcp")),
		"-p 8080:80/udp":                ports(port("", 8080, 80, "udp")),
		"-p 127.0.0.1:8080:80":          ports(port("127.0.0.1", 8080, 80, "tcp")),
		"-p 127.0.0.1::80/TCP":          ports(port("127.0.0.1", 0, 80, "tcp")),
		"-p 127.0.0.1:0:80":             ports(port("127.0.0.1", 0, 80, "tcp")),
		"-p [::1]:8080:80 -p [::]::81":  ports(port("::1", 8080, 80, "tcp"), port("::", 0, 81, "tcp")),
		"-p ::1:8080:80":                ports(port("::1", 8080, 80, "tcp")),
		"--publish 8000-8001:80-81/udp": ports(port("", 8000, 80, "udp"), port("", 8001, 81, "udp")),
		"-p 80-81":                      ports(port("", 0, 80, "tcp"), port("", 0, 81, "tcp")),

		"-v /data":                               mounts(api.MountSpec{Type: "volume", Target: "/data"}),
		"-v /h:/c/../d/":                         mounts(api.MountSpec{Type: "bind", Source: "/h", Target: "/d", CreateSource: true}),
		"-v /h:/c:ro,rslave":                     mounts(api.MountSpec{Type: "bind", Source: "/h", Target: "/c", CreateSource: true, ReadOnly: true, Propagation: "rslave"}),
		"-v ./sub:/c:rw,z":                       mounts(api.MountSpec{Type: "bind", Source: filepath.Join(dir, "sub"), Target: "/c", CreateSource: true}),
		"-v .:/c -v ..:/d":                       mounts(api.MountSpec{Type: "bind", Source: dir, Target: "/c", CreateSource: true}, api.MountSpec{Type: "bind", Source: filepath.Dir(dir), Target: "/d", CreateSource: true}),
		"-v vol:/c:nocopy":                       mounts(api.MountSpec{Type: "volume", Source: "vol", Target: "/c", NoCopy: true}),
		"--tmpfs /t --tmpfs /u:size=1m,mode=700": mounts(api.MountSpec{Type: "tmpfs", Target: "/t"}, api.MountSpec{Type: "tmpfs", Target: "/u", TmpfsOptions: []string{"size=1m", "mode=700"}}),
		"--mount type=bind,src=/h,dst=/c,ro,bind-propagation=shared,bind-nonrecursive": mounts(
			api.MountSpec{Type: "bind", Source: "/h", Target: "/c", ReadOnly: true, Propagation: "shared", NonRecursive: true}),
		"--mount type=bind,source=.,target=/c,readonly=false,bind-recursive=disabled,consistency=cached": mounts(
			api.MountSpec{Type: "bind", Source: dir, Target: "/c", NonRecursive: true}),
		"--mount source=vol,destination=/c,volume-nocopy=true,volume-driver=local": mounts(
			api.MountSpec{Type: "volume", Source: "vol", Target: "/c", NoCopy: true}),
		"--mount dst=/c": mounts(api.MountSpec{Type: "volume", Target: "/c"}),
		"--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770": mounts(
			api.MountSpec{Type: "tmpfs", Target: "/t", TmpfsSize: 1 << 20, TmpfsMode: 0o1770}),
		`--mount type=bind,"src=/with,comma",dst=/c`: mounts(api.MountSpec{Type: "bind", Source: "/with,comma", Target: "/c"}),
	} {
		f := &fake{}
		args := append([]string{"create"}, strings.Fields(flags)...)
		r := brig(t, f, append(args, "img", "cmd", "-x", "--rm")...)
		want.Image, want.Command = "img", []string{"cmd", "-x", "--rm"}
		if r.code != 0 || !reflect.DeepEqual(f.spec, want) {
			t.Errorf("%s:\n got %+v\nwant %+v\n%s", flags, f.spec, want, r.errOut)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSpecRefused holds flags that make no sense against the complaint. None reaches the engine, all end with 125.
func TestSpecRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "spaced", "A B=1\n")
	write(t, "nameless", "ok=1\n=x\n")
	write(t, "binary", "A=\xff\n")
	for flags, want := range map[string]string{
		"--bogus":    "unknown flag: --bogus",
		"--gpus all": "--gpus is not supported",

		"--isolation container,userns --userns host": "--isolation container,userns contradicts --userns host",
		"--isolation jail":                           "unknown isolation level \"jail\"",
		"-e =x":                                      "invalid environment variable: =x",
		"--env-file missing":                         "open missing: no such file",
		"--env-file spaced":                          "spaced: line 1: variable 'A B' contains whitespaces",
		"--env-file nameless":                        "nameless: line 2: no variable name on line '=x'",
		"--env-file binary":                          "binary: line 1: not UTF-8",
		"--label-file nameless":                      "nameless: line 2: no label name",
		"-l =x":                                      "invalid label",
		"-m 1x":                                      "invalid size",
		"-m -1":                                      "invalid size",
		"-m 1e3":                                     "invalid size",
		"--cpus 1.0000000001":                        "more than 9 digits",
		"--cpus -1":                                  "invalid number of CPUs",
		"--cpus .":                                   "invalid number of CPUs",
		"--pids-limit -2":                            "invalid --pids-limit",
		"--ulimit nofile":                            "invalid ulimit",
		"--ulimit files=1":                           "invalid ulimit type: files",
		"--ulimit nofile=2:1":                        "ulimit soft limit must be less",
		"--ulimit nofile=-1:1":                       "ulimit soft limit must be less",
		"--ulimit nofile=1:x":                        "hard limit \"x\" is not a number",
		"--security-opt label=disable":               "--security-opt label is not supported",
		"--security-opt no-new-privileges=yes":       "invalid --security-opt",
		"--security-opt nesting=yes":                 "invalid --security-opt",
		"--systemd yes":                              "invalid systemd value",
		"--device dev/x":                             "paths must be absolute",
		"--device /dev/x:/dev/y:rr":                  "invalid device mode: rr",
		"--device a:b:c:d":                           "invalid device specification",
		"--pull sometimes":                           "invalid pull option: 'sometimes'",
		"--platform linux":                           "invalid platform",
		"--network container:":                       "network \"container:\" is not supported",
		"--network private":                          "network \"private\" is not supported",
		"--network a,ip=1.2.3.4":                     "invalid field a",
		"--network name=a,color=blue":                "the key \"color\" is not supported",
		"--network name=a,ip6=1.2.3.4":               "invalid IPv6 address",
		"--network alias=b":                          "its name is missing",
		"--network a --network host":                 "conflicting options",
		"--network a --network container:b":          "conflicting options",
		"--network bridge --network none":            "conflicting options",
		"--network-alias a":                          "only supported for user-defined networks",
		"--network none --ip 1.2.3.4":                "only supported for user-defined networks",
		"--network a --network b --ip 1.2.3.4":       "conflicting options: --ip",
		"--network name=a,ip=1.2.3.4 --ip 1.2.3.5":   "conflicting options: two addresses",
		"--ip ::1":                                   "invalid IPv4 address",
		"--dns resolver":                             "resolver is not an ip address",
		"--add-host a":                               "bad format for add-host",
		"--add-host a:b":                             "invalid IP address in add-host",
		"-p abc":                                     "invalid containerPort: abc",
		"-p 0":                                       "invalid containerPort: 0",
		"-p 65536":                                   "invalid containerPort: 65536",
		"-p x:80":                                    "invalid hostPort: x",
		"-p host:80:80":                              "invalid IP address: host",
		"-p 80/icmp":                                 "invalid proto: icmp",
		"-p 80-70":                                   "invalid containerPort: 80-70",
		"-p 8000-8002:80-81":                         "invalid ranges",
		"-p 8002-8000:80":                            "invalid hostPort: 8002-8000",
		"-v data":                                    "must be absolute",
		"-v /h:/":                                    "must not be '/'",
		"-v :/c":                                     "empty section",
		"-v a/b:/c":                                  "includes invalid characters",
		"-v a:/c":                                    "too short",
		"-v /h:/c:rx":                                "unknown option \"rx\"",
		"-v /h:/c:nocopy":                            "option nocopy is for volumes",
		"-v vol:/c:shared":                           "unknown option \"shared\"",
		"-v /a:/b:ro:x":                              "invalid volume specification",
		"--tmpfs t":                                  "must be absolute",
		"-v /a:/c -v /b:/c":                          "duplicate mount point: /c",
		"-v /a:/c --tmpfs /c/":                       "duplicate mount point: /c",
		"--mount type=foo":                           "unknown mount type \"foo\"",
		"--mount type=image,dst=/c":                  "source is required when mount type is image",
		"--mount type=bind,src=/h":                   "target is required",
		"--mount type=bind,dst=/c":                   "source is required",
		"--mount type=bind,src=h,dst=/c":             "'h' must be absolute",
		"--mount dst=/c,colour=red":                  "unknown option 'colour'",
		"--mount dst=/c,src":                         "invalid field 'src' must be a key=value pair",
		"--mount dst=/c,volume-subpath=../x":         "it must be a path below the volume",
		"--mount dst=/c,volume-driver=nfs":           "volume-driver \"nfs\" is not supported",
		"--mount dst=/c,tmpfs-size=1m":               "cannot mix 'tmpfs-size' with mount type 'volume'",
		"--mount type=tmpfs,dst=/c,src=x":            "a mount of type tmpfs has no source",
		"--mount type=tmpfs,dst=/c,tmpfs-mode=9":     "invalid value for tmpfs-mode",
		"--mount type=bind,src=/h,dst=/c,ro=maybe":   "invalid value for ro",
		"--mount type=bind,src=/h,dst=/c,bind-propagation=up":     "invalid value for bind-propagation",
		"--mount type=bind,src=/h,dst=/c,bind-recursive=readonly": "requires 'readonly' to be specified",
		"--mount dst=/c,\"":    "invalid mount",
		"-d -a stdout":         "conflicting options: cannot specify both --attach and --detach",
		"-a stdlog":            "valid streams are",
		"--detach-keys ctrl-1": "invalid detach keys",
		"--stop-timeout x":     "invalid argument \"x\" for \"--stop-timeout\"",
	} {
		f := &fake{}
		args := append([]string{"run"}, strings.Fields(flags)...)
		r := brig(t, f, append(args, "img")...)
		if r.code != 125 || !strings.Contains(r.errOut, want) || !strings.HasPrefix(r.errOut, "brig: ") ||
			!strings.HasSuffix(r.errOut, "Run 'brig run --help' for more information\n") {
			t.Errorf("%s: code %d, %s\nwant 125 and %q", flags, r.code, r.errOut, want)
		}
		if f.calls != nil {
			t.Errorf("%s: the engine was called: %q", flags, f.calls)
		}
	}
}

func TestSELinuxLabels(t *testing.T) {
	a := &app{seLinux: func() bool { return true }}
	for _, option := range []string{"z", "Z"} {
		if _, err := a.parseVolume("/h:/c:" + option); api.KindOf(err) != api.Unsupported {
			t.Errorf("%s: %v", option, err)
		}
	}
	a.seLinux = func() bool { return false }
	if _, err := a.parseVolume("/h:/c:Z"); err != nil {
		t.Error(err)
	}
}

func TestPublishedPortsDiscarded(t *testing.T) {
	for _, mode := range []string{"host", "none"} {
		f := &fake{}
		r := brig(t, f, "run", "--network", mode, "-p", "80:80", "img")
		r.complains(t, 0, fmt.Sprintf("WARNING: Published ports are discarded when using %s network mode\n", mode))
		if f.spec.Network.Ports != nil {
			t.Errorf("%s: ports %v", mode, f.spec.Network.Ports)
		}
	}
}

func TestCIDFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cid")
	f := &fake{err: api.Errorf(api.NotFound, "no image img")}
	brig(t, f, "run", "--cidfile", file, "img").complains(t, 125, "brig: no image img\n")
	if _, err := os.Stat(file); err == nil {
		t.Error("the file of a run that failed is left")
	}
	f.err = nil
	for _, verb := range []string{"run", "create"} {
		os.Remove(file)
		brig(t, f, verb, "--cidfile", file, "img")
		if got, err := os.ReadFile(file); string(got) != testID {
			t.Errorf("%s: %q, %v", verb, got, err)
		}
	}
	f.calls = nil
	brig(t, f, "run", "--cidfile", file, "img").complains(t, 125, "brig: container ID file found, make sure")
	if f.calls != nil {
		t.Error("the engine was called although the file is there")
	}
}

func BenchmarkRunFlags(b *testing.B) {
	for b.Loop() {
		a := &app{seLinux: hasSELinux}
		root := a.rootCommand()
		args := []string{"run", "--rm", "-e", "A=b", "-v", "/h:/c", "-p", "8080:80", "img", "true"}
		a.addCommands(root, args)
		cmd, rest, err := root.Traverse(args)
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
