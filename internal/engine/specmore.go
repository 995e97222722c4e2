package engine

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// more enters the rarer settings of a spec into the bundle's configuration.
func more(o *specs.Spec, s *api.ContainerSpec) error {
	if s.Umask != "" {
		n, err := strconv.ParseUint(s.Umask, 8, 32)
		if err != nil || n > 0o777 {
			return api.Errorf(api.InvalidArgument, "invalid umask %q: use octal digits up to 0777", s.Umask)
		}
		mask := uint32(n)
		o.Process.User.Umask = &mask
	}
	for _, rule := range s.DeviceRules {
		r, err := deviceRule(rule)
		if err != nil {
			return err
		}
		o.Linux.Resources.Devices = append(o.Linux.Resources.Devices, r)
	}
	o.Linux.Resources.Unified = s.CgroupConf
	if s.Timezone != "" {
		zone, err := zoneFile(s.Timezone)
		if err != nil {
			return err
		}
		o.Mounts = append(o.Mounts, specs.Mount{Type: "bind", Source: zone, Destination: "/etc/localtime", Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}})
	}
	return nil
}

// deviceRule reads docker's form of a rule of cgroup version 1: TYPE MAJOR:MINOR ACCESS (Documentation/admin-guide/cgroup-v1/devices.rst).
func deviceRule(s string) (specs.LinuxDeviceCgroup, error) {
	bad := func() (specs.LinuxDeviceCgroup, error) {
		return specs.LinuxDeviceCgroup{}, api.Errorf(api.InvalidArgument, "invalid device cgroup format: '%s': use TYPE MAJOR:MINOR ACCESS, as in 'c 1:3 rwm'", s)
	}
	f := strings.Fields(s)
	if len(f) != 3 || f[0] != "a" && f[0] != "b" && f[0] != "c" || strings.Trim(f[2], "rwm") != "" {
		return bad()
	}
	r := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok {
		return bad()
	}
	for _, n := range []struct {
		text string
		to   **int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if n.text == "*" {
			continue
		}
		v, err := strconv.ParseInt(n.text, 10, 32)
		if err != nil || v < 0 {
			return bad()
		}
		*n.to = &v
	}
	return r, nil
}

// zoneInfo is where the host's time zones are: tzset(3).
const zoneInfo = "/usr/share/zoneinfo"

// zoneFile is the file of the host that describes a time zone.
func zoneFile(zone string) (string, error) {
	file := "/etc/localtime"
	if zone != "local" {
		if !filepath.IsLocal(zone) {
			return "", api.Errorf(api.InvalidArgument, "time zone %q: use a name as Europe/Berlin, or local", zone)
		}
		file = filepath.Join(zoneInfo, zone)
	}
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", api.Errorf(api.InvalidArgument, "time zone %s: %w: the host's are in %s, package tzdata", zone, err, zoneInfo)
	}
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
		return "", api.Errorf(api.InvalidArgument, "time zone %s: %s is not a file", zone, file)
	}
	return file, nil
}
