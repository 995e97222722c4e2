package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseBytes reads a size as docker does: a number, perhaps with a fraction, and b, k, m, g, t or p for powers of 1024, which may be
// followed by b or ib.
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "bBkKmMgGtTpPiI ")
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || strings.ContainsAny(digits, "eExX_nN+") {
		return 0, fmt.Errorf("invalid size: %q: use a number with b, k, m, g or t, as in 512m", s)
	}
	power := 0
	if unit != "" && unit != "b" {
		power = strings.IndexByte("kmgtp", unit[0]) + 1
		if rest := unit[1:]; power == 0 || rest != "" && rest != "b" && rest != "ib" {
			return 0, fmt.Errorf("invalid size: %q: unknown unit %q: use b, k, m, g or t", s, unit)
		}
	}
	n *= math.Pow(1024, float64(power))
	if n < 0 || n > math.MaxInt64/2 {
		return 0, fmt.Errorf("invalid size: %q: out of range", s)
	}
	return int64(n), nil
}

// parseCPUs reads a decimal number of CPUs into billionths, exactly.
func parseCPUs(s string) (int64, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(fraction) > 9 {
		return 0, fmt.Errorf("invalid number of CPUs %q: more than 9 digits after the point", s)
	}
	digits := whole + fraction + strings.Repeat("0", 9-len(fraction))
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || whole+fraction == "" || strings.HasPrefix(s, "+") {
		return 0, fmt.Errorf("invalid number of CPUs %q: use a decimal number, as in 1.5", s)
	}
	return n, nil
}

// humanSize writes bytes as docker does: decimal units, three significant digits.
func humanSize(n int64) string {
	size := float64(n)
	for _, unit := range []string{"B", "kB", "MB", "GB", "TB"} {
		if size < 999.5 { // would be rounded to 1000
			return fmt.Sprintf("%.3g%s", size, unit)
		}
		size /= 1000
	}
	return fmt.Sprintf("%.3gPB", size)
}

// humanMemory writes bytes in binary units, as docker info does.
func humanMemory(n int64) string {
	size := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if size < 1024 {
			return fmt.Sprintf("%.4g%s", size, unit)
		}
		size /= 1024
	}
	return fmt.Sprintf("%.4gTiB", size)
}

// humanDuration writes a length of time in docker's words.
func humanDuration(d time.Duration) string {
	hours := int(d.Hours() + 0.5)
	switch seconds, minutes := int(d.Seconds()), int(d.Minutes()); {
	case seconds < 1:
		return "Less than a second"
	case seconds == 1:
		return "1 second"
	case seconds < 60:
		return fmt.Sprintf("%d seconds", seconds)
	case minutes == 1:
		return "About a minute"
	case minutes < 60:
		return fmt.Sprintf("%d minutes", minutes)
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return fmt.Sprintf("%d hours", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months", hours/24/30)
	}
	return fmt.Sprintf("%d years", int(d.Hours())/24/365)
}

// ago writes how long before now t was.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return humanDuration(now.Sub(t)) + " ago"
}

// parseTime reads a point in time for logs: a duration before now, seconds since 1970 with a fraction, or a date with or without a
// clock time and a zone, in RFC 3339 form; without a zone it is the machine's.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if sec, fraction, _ := strings.Cut(s, "."); len(fraction) <= 9 {
		seconds, err := strconv.ParseInt(sec, 10, 64)
		nanos, err2 := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 32)
		if err == nil && err2 == nil {
			return time.Unix(seconds, int64(nanos)), nil
		}
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("invalid time %q: use a duration as 42m, or a date as 2026-01-02T13:23:37Z", s)
}
