package oci

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// TestValidateMounts: what a mount cannot be is refused with its place in config.json.
func TestValidateMounts(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
	bind := func(options ...string) specs.Mount {
		return specs.Mount{Destination: "/d", Source: "/s", Type: "bind", Options: options}
	}
	mapped := func(l []specs.LinuxIDMapping) specs.Mount {
		m := bind()
		m.UIDMappings, m.GIDMappings = l, ids
		return m
	}
	tmpfs := func(options ...string) specs.Mount {
		return specs.Mount{Destination: "/d", Type: "tmpfs", Options: options}
	}
	long := "a=" + strings.Repeat("b", maxFsconfig)
	for want, m := range map[string]specs.Mount{
		".destination is empty":                        {Type: "tmpfs"},
		".destination: a mount may not replace":        {Destination: "/./", Type: "tmpfs"},
		".destination: only a proc file":               {Destination: "//proc/.", Type: "tmpfs"},
		".destination: /proc/self/attr belongs to":     {Destination: "/proc/self/attr", Type: "tmpfs"},
		".destination: /proc/1/attr/x belongs to":      {Destination: "proc/1/attr/x", Type: "tmpfs"},
		".destination: /proc/thread-self belongs to":   {Destination: "/x/../proc/thread-self", Type: "tmpfs"},
		" has a NUL byte":                              {Destination: "/a\x00", Type: "tmpfs"},
		".type is empty":                               {Destination: "/d"},
		".source is empty":                             {Destination: "/d", Options: []string{"bind"}},
		".options: tmpcopyup is for tmpfs":             bind("tmpcopyup"),
		".options: idmap without":                      bind("idmap"),
		".options: a remount cannot map":               bind("remount", "ridmap"),
		".options: a remount is no new":                tmpfs("remount", "tmpcopyup"),
		".options: a remount takes no iversion":        tmpfs("remount", long),
		": file system proc has no ID-mapped":          {Destination: "/p", Type: "proc", UIDMappings: ids, GIDMappings: ids},
		".options: iversion, and options of":           {Destination: "/p", Type: "proc", Options: []string{long}},
		".options: copyup is not for file system":      {Destination: "/p", Type: "cgroup", Options: []string{"copyup"}},
		".options: \"nsdelegate\" is an option of the": {Destination: "/p", Type: "cgroup2", Options: []string{"nsdelegate"}},
		": uidMappings and gidMappings must both":      {Destination: "/d", Source: "/s", Type: "bind", UIDMappings: ids},
		".uidMappings[0].size is 0":                    mapped([]specs.LinuxIDMapping{{Size: 0}}),
		".uidMappings[1]: the range":                   mapped([]specs.LinuxIDMapping{{Size: 1}, {ContainerID: 5, HostID: 1<<32 - 1, Size: 2}}),
		".uidMappings[1] overlaps with":                mapped([]specs.LinuxIDMapping{{Size: 10}, {ContainerID: 9, HostID: 100, Size: 2}}),
		".uidMappings: 341 ranges":                     mapped(make([]specs.LinuxIDMapping, 341)),
	} {
		s := validSpec()
		s.Mounts = append(s.Mounts, m)
		if err := Validate(s); err == nil || !strings.Contains(err.Error(), "config.json: mounts[1]") || !strings.Contains(err.Error(), want) || api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%+v: %v, want %q", m, err, want)
		}
	}
	for _, m := range []specs.Mount{
		{Destination: "rel/dir", Type: "tmpfs"}, {Destination: "/proc/sys/x", Type: "tmpfs"}, {Destination: "/proc", Type: "bind", Source: "/proc"},
		{Destination: "/", Options: []string{"bind", "remount", "ro"}}, bind("async", "nolazytime", "nomand", "rro"), mapped(ids), tmpfs(long, "iversion", "sync"),
		{Destination: "/proc/2to3", Type: "tmpfs"},
	} {
		s := validSpec()
		s.Mounts = append(s.Mounts, m)
		if err := Validate(s); err != nil {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestValidatePathsAndDevices(t *testing.T) {
	mode := os.FileMode(0o600)
	for want, change := range map[string]func(*specs.Linux){
		`linux.rootfsPropagation: unknown value "x"`: func(l *specs.Linux) { l.RootfsPropagation = "x" },
		`linux.rootfsPropagation: unknown value "rr`: func(l *specs.Linux) { l.RootfsPropagation = "rrshared" },
		`linux.maskedPaths[1]: "/."`:                 func(l *specs.Linux) { l.MaskedPaths = []string{"/a", "/."} },
		`linux.readonlyPaths[0]: ""`:                 func(l *specs.Linux) { l.ReadonlyPaths = []string{""} },
		"linux.devices[1].type: unknown type": func(l *specs.Linux) {
			l.Devices = []specs.LinuxDevice{{Type: "p", Path: "/p"}, {Type: "x", Path: "/x"}}
		},
		"linux.devices[0].path":            func(l *specs.Linux) { l.Devices = []specs.LinuxDevice{{Type: "c", Path: "dev/x"}} },
		"linux.devices[0].path: \"/dev/\"": func(l *specs.Linux) { l.Devices = []specs.LinuxDevice{{Type: "c", Path: "/dev/"}} },
		"linux.devices[0].major: -1":       func(l *specs.Linux) { l.Devices = []specs.LinuxDevice{{Type: "c", Path: "/x", Major: -1}} },
		"linux.devices[0].minor: 1048576": func(l *specs.Linux) {
			l.Devices = []specs.LinuxDevice{{Type: "b", Path: "/x", Minor: 1 << 20, FileMode: &mode}}
		},
	} {
		s := validSpec()
		change(s.Linux)
		if err := Validate(s); err == nil || !strings.Contains(err.Error(), "config.json: "+want) || api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestValidateNetDevices(t *testing.T) {
	for want, list := range map[string]map[string]specs.LinuxNetDevice{
		`"" is not a name`:                    {"": {}},
		`"a/b" is not a name`:                 {"eth0": {Name: "a/b"}},
		`"eth%d" is not a name`:               {"eth0": {Name: "eth%d"}},
		`"0123456789abcdef" is not`:           {"0123456789abcdef": {}},
		"eth0 and eth1 would both be eth1":    {"eth0": {Name: "eth1"}, "eth1": {}},
		"\"a\\u00a0\" is not a name that a n": {"a\u00a0": {}},
	} {
		if err := validateNetDevices(list, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", list, err, want)
		}
	}
	if err := validateNetDevices(map[string]specs.LinuxNetDevice{"eth0": {Name: "eth1"}, "eth1": {Name: "eth0"}}, true); err != nil {
		t.Errorf("an exchange of names: %v", err)
	}
}
