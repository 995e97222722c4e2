package procimage

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mapping is a line of /proc/PID/maps.
type mapping struct {
	start, end, offset, ino uint64
	perms, dev, path        string
}

func (m *mapping) prot() (p int) {
	for i, c := range "rwx" {
		if m.perms[i] == byte(c) {
			p |= 1 << i
		}
	}
	return p
}

// special reports whether it is the kernel's own, and goes where the kernel likes.
func (m *mapping) special() bool { return strings.HasPrefix(m.path, "[v") }

// readMaps reads /proc/PID/maps: proc(5).
func readMaps(r io.Reader) (list []mapping, err error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		m, ok := parseMapping(s.Text())
		if !ok {
			return nil, fmt.Errorf("a line of /proc/PID/maps cannot be read: %q", s.Text())
		}
		list = append(list, m)
	}
	return list, s.Err()
}

func parseMapping(line string) (m mapping, ok bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 5 || len(f[1]) != 4 {
		return m, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	var errs [4]error
	m.start, errs[0] = strconv.ParseUint(from, 16, 64)
	m.end, errs[1] = strconv.ParseUint(to, 16, 64)
	m.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
	m.ino, errs[3] = strconv.ParseUint(f[4], 10, 64)
	m.perms, m.dev = f[1], f[3]
	if len(f) == 6 {
		m.path = strings.TrimLeft(f[5], " ")
	}
	for _, err := range errs {
		if err != nil {
			return m, false
		}
	}
	return m, m.start < m.end
}
