package cli

import (
	"slices"
	"testing"
	"time"
)

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "32b": 32, "1k": 1024, "1K": 1024, "1kb": 1024, "2KiB": 2048, "1.5m": 3 << 19, "3 MB": 3 << 20, "1g": 1 << 30, "1t": 1 << 40, "1p": 1 << 50,
	} {
		if got, err := parseBytes(s); got != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "1i", "1kk", "1kbb", "-1", "+1", "1e3", "0x10", "inf", "nan", "1_0", "9999999p", "1 2"} {
		if got, err := parseBytes(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "2": 2e9, "0.5": 5e8, ".25": 25e7, "1.": 1e9, "1.123456789": 1123456789} {
		if got, err := parseCPUs(s); got != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", ".", "-1", "+1", "1.0000000001", "1,5", "1.-5", "99999999999"} {
		if got, err := parseCPUs(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1kB", 1234: "1.23kB", 77_800_000: "77.8MB", 999_600: "1MB", 999_400: "999kB", 5_000_000_000: "5GB", 2e12: "2TB", 3e15: "3PB",
	} {
		if got := humanSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	if got := humanMemory(8_345_000_000); got != "7.772GiB" {
		t.Error(got)
	}
}

func TestHumanDuration(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0: "Less than a second", -time.Hour: "Less than a second", time.Second: "1 second", 59 * time.Second: "59 seconds", 60 * time.Second: "About a minute",
		2 * time.Minute: "2 minutes", 59 * time.Minute: "59 minutes", 75 * time.Minute: "About an hour", 2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours",
		2 * day: "2 days", 13 * day: "13 days", 14 * day: "2 weeks", 59 * day: "8 weeks", 61 * day: "2 months", 700 * day: "23 months", 800 * day: "2 years",
	} {
		if got := humanDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if got := ago(time.Now(), time.Time{}); got != "N/A" {
		t.Error(got)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"42m":                       now.Add(-42 * time.Minute),
		"1h30m":                     now.Add(-90 * time.Minute),
		"1136073845":                time.Unix(1136073845, 0),
		"1136073845.000000001":      time.Unix(1136073845, 1),
		"1136073845.5":              time.Unix(1136073845, 5e8),
		"2026-01-02T03:04:05Z":      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02T03:04:05+02:00": time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC),
		"2026-01-02T03:04:05.7":     time.Date(2026, 1, 2, 3, 4, 5, 7e8, time.Local),
		"2026-01-02T03:04":          time.Date(2026, 1, 2, 3, 4, 0, 0, time.Local),
		"2026-01-02":                time.Date(2026, 1, 2, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseTime(s, now); !got.Equal(want) || err != nil {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "yore", "2026", "12:00", "1.x", "2026-13-01"} {
		if got, err := parseTime(s, now); err == nil && s != "2026" { // 2026 s after 1970
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestParseKeys(t *testing.T) {
	for s, want := range map[string][]byte{
		"": nil, "a": []byte("a"), "ctrl-p,ctrl-q": {16, 17}, "ctrl-a,z,ctrl-z": {1, 'z', 26}, "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": {0, 27, 28, 29, 30, 31},
	} {
		if got, err := parseKeys(s); !slices.Equal(got, want) || err != nil {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{",", "a,", "ctrl-", "ctrl-1", "ctrl-A", "ctrl-ab", "shift-a", "é"} {
		if got, err := parseKeys(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestNames(t *testing.T) {
	for full, want := range map[string]string{
		"docker.io/library/debian:12": "debian:12", "docker.io/team/app:1": "team/app:1", "docker.io/library/a/b": "library/a/b",
		"localhost:5000/app": "localhost:5000/app", "": "",
	} {
		if got := familiar(full); got != want {
			t.Errorf("%q: %q, want %q", full, got, want)
		}
	}
	for name, want := range map[string][3]string{
		"debian": {"debian"}, "debian:12": {"debian", "12"}, "host:5000/a": {"host:5000/a"}, "host:5000/a:t@sha256:1": {"host:5000/a", "t", "sha256:1"},
	} {
		repo, tag, digest := splitName(name)
		if got := [3]string{repo, tag, digest}; got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// The values of flags come from people and scripts: none may panic, and what is accepted must be sound.
func FuzzFlagValues(f *testing.F) {
	for _, s := range []string{"80", "[::1]:8000-8001:80-81/udp", "/a:/b:ro", "vol:/c", "type=bind,src=/a,dst=/b", "512m", "nofile=1:2", "/dev/a:rw", "a:1.2.3.4", "ctrl-p"} {
		f.Add(s)
	}
	a := &app{seLinux: func() bool { return false }}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := parsePorts(s)
		for _, p := range ports {
			if err == nil && p.ContainerPort == 0 {
				t.Errorf("%q: container port 0", s)
			}
		}
		if m, err := a.parseVolume(s); err == nil && (m.Target[0] != '/' || m.Type == "bind" && m.Source[0] != '/') {
			t.Errorf("%q: %+v", s, m)
		}
		if m, err := parseMount(s); err == nil && (m.Target[0] != '/' || m.Type == "bind" && m.Source[0] != '/') {
			t.Errorf("%q: %+v", s, m)
		}
		if n, err := parseBytes(s); err == nil && n < 0 {
			t.Errorf("%q: %d bytes", s, n)
		}
		if n, err := parseCPUs(s); err == nil && n < 0 {
			t.Errorf("%q: %d CPUs", s, n)
		}
		_, _ = parseUlimit(s)
		_, _ = parseDevice(s)
		_, _ = parseHost(s)
		_, _ = parseKeys(s)
		_, _ = parseSecurity(s)
		_, _ = parseTime(s, time.Now())
	})
}
