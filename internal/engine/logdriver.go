package engine

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/runtime"
)

// journalSocket is where journald takes entries: systemd-journald.service(8).
const journalSocket = "/run/systemd/journal/socket"

// logOptions are the options of each driver.
func logOptions(driver string) ([]string, bool) {
	switch driver {
	case "", api.LogJSONFile, api.LogK8sFile:
		return []string{"max-size", "max-file", "labels", "env"}, true // what `brig logs --details` shows stands in the record
	case api.LogJournald:
		return []string{"tag"}, true
	case api.LogSyslog:
		return []string{"syslog-address", "syslog-facility", "tag"}, true
	case api.LogNone:
		return nil, true
	}
	return nil, false
}

// checkLog refuses drivers and options that there are none of.
func checkLog(s *api.ContainerSpec) error {
	_, err := logSpec("", "", "", s.Log)
	return err
}

// logSpec makes of a driver and its options what the keeper is told; dir is the folder of the container's files.
func logSpec(dir, id, name string, l api.LogConfig) (runtime.LogSpec, error) {
	known, ok := logOptions(l.Driver)
	if !ok {
		return runtime.LogSpec{}, api.Errorf(api.Unsupported, "logger: no log driver named '%s' is registered: use json-file, k8s-file, journald, syslog or none", l.Driver)
	}
	for _, k := range slices.Sorted(maps.Keys(l.Options)) {
		if !slices.Contains(known, k) {
			return runtime.LogSpec{}, api.Errorf(api.InvalidArgument, "unknown log opt '%s' for %s log driver", k, l.Driver)
		}
	}
	spec := runtime.LogSpec{Driver: l.Driver}
	tag := strings.NewReplacer("{{.ID}}", id[:min(12, len(id))], "{{.FullID}}", id, "{{.Name}}", name).Replace(l.Options["tag"])
	if strings.Contains(tag, "{{") {
		return spec, api.Errorf(api.Unsupported, "log opt tag %q: of templates only {{.ID}}, {{.FullID}} and {{.Name}} are supported", l.Options["tag"])
	}
	if tag == "" {
		tag = id[:min(12, len(id))]
	}
	switch l.Driver {
	case api.LogNone:
		return runtime.LogSpec{}, nil
	case api.LogJournald:
		spec.Path = journalSocket
		spec.Tag = fmt.Sprintf("CONTAINER_ID=%.12s\nCONTAINER_ID_FULL=%s\nCONTAINER_NAME=%s\nCONTAINER_TAG=%s\nSYSLOG_IDENTIFIER=%s\n", id, id, name, oneLine(tag), oneLine(tag))
		return spec, nil
	case api.LogSyslog:
		spec.Tag = oneLine(tag)
		return spec, syslog(&spec, l.Options)
	}
	return spec, logFile(&spec, dir, l.Options)
}

// oneLine keeps a tag from being more than one field.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// logFile is where a file's records go, and when it is rotated.
func logFile(spec *runtime.LogSpec, dir string, options map[string]string) error {
	spec.Path, spec.MaxSize, spec.MaxFiles = filepath.Join(dir, "log", logName(spec.Driver)), logMaxSize, logMaxFiles
	if s, ok := options["max-size"]; ok {
		n, err := parseLogSize(s)
		if err != nil {
			return err
		}
		spec.MaxSize = n
	}
	if s, ok := options["max-file"]; ok {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return api.Errorf(api.InvalidArgument, "invalid log opt max-file=%s: use a number from 1 to 1000", s)
		}
		spec.MaxFiles = n
	}
	return nil
}

// logName is the file of a driver in a container's folder log.
func logName(driver string) string {
	if driver == api.LogK8sFile {
		return "ctr.log"
	}
	return "json.log"
}

// parseLogSize reads docker's sizes: a number with b, k, m or g; -1 is no limit.
func parseLogSize(s string) (int64, error) {
	if s == "-1" {
		return 0, nil
	}
	digits := strings.TrimRight(strings.ToLower(s), "bkmg")
	unit := strings.TrimSuffix(strings.ToLower(s)[len(digits):], "b")
	n, err := strconv.ParseInt(digits, 10, 40)
	shift := strings.Index("kmg", unit)
	if err != nil || n < 1 || len(unit) > 1 || unit != "" && shift < 0 {
		return 0, api.Errorf(api.InvalidArgument, "invalid log opt max-size=%s: use a size as in 10m, or -1 for no limit", s)
	}
	if unit != "" {
		n <<= 10 * (shift + 1)
	}
	return n, nil
}

// syslog is where the messages go: the machine's own, or one that is spoken to by UDP.
func syslog(spec *runtime.LogSpec, options map[string]string) error {
	spec.Path, spec.Facility = "/dev/log", 3 // daemon, as docker
	if s, ok := options["syslog-facility"]; ok {
		names := strings.Fields("kern user mail daemon auth syslog lpr news uucp cron authpriv ftp")
		spec.Facility = slices.Index(names, s)
		if n, err := strconv.Atoi(strings.TrimPrefix(s, "local")); err == nil && strings.HasPrefix(s, "local") && n >= 0 && n <= 7 {
			spec.Facility = 16 + n
		} else if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 23 {
			spec.Facility = n
		}
		if spec.Facility < 0 {
			return api.Errorf(api.InvalidArgument, "invalid syslog facility: %s", s)
		}
	}
	address, ok := options["syslog-address"]
	if !ok {
		return nil
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return api.Errorf(api.InvalidArgument, "invalid log opt syslog-address: %w", err)
	case u.Scheme == "unixgram" || u.Scheme == "unix":
		if spec.Path = u.Path; !filepath.IsAbs(spec.Path) || len(spec.Path) > 107 {
			return api.Errorf(api.InvalidArgument, "syslog-address %s: want the absolute path of a socket, of 107 bytes at most", address)
		}
		return nil
	case u.Scheme != "udp":
		return api.Errorf(api.Unsupported, "syslog-address %s: use unixgram:///PATH or udp://HOST[:PORT]", address)
	}
	port := u.Port()
	if port == "" {
		port = "514"
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		all, lerr := net.DefaultResolver.LookupNetIP(context.Background(), "ip", u.Hostname())
		if lerr != nil || len(all) == 0 {
			return api.Errorf(api.Unavailable, "syslog-address %s: %w", address, lerr)
		}
		ip = all[0]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return api.Errorf(api.InvalidArgument, "syslog-address %s: no port: %s", address, port)
	}
	spec.Path, spec.UDP = "", netip.AddrPortFrom(ip, uint16(n)).String()
	return nil
}
