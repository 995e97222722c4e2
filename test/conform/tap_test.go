package conform

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// tap is what a program said in the Test Anything Protocol, version 13. Only lines that begin in the first column count: the suite puts
// the output of what it ran in a container into indented YAML blocks.
type tap struct {
	ok, failed, skipped int
	plan                int      // -1: none
	complaints          []string // "not ok" lines and breaches of the protocol
}

func parseTAP(out string) tap {
	point := regexp.MustCompile(`^(not )?ok\b(?: +(\d+))?(.*)$`)
	plan := regexp.MustCompile(`^1\.\.(\d+)( *#.*)?$`)
	directive := regexp.MustCompile(`(?i)^[^#]*# *(skip|todo)`)
	p := tap{plan: -1}
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\r\n")
		if m := plan.FindStringSubmatch(line); m != nil {
			if p.plan >= 0 {
				p.complaints = append(p.complaints, "a second plan: "+line)
			}
			p.plan, _ = strconv.Atoi(m[1])
		}
		if strings.HasPrefix(line, "Bail out!") {
			p.complaints = append(p.complaints, line)
		}
		m := point.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if n := p.ok + p.failed + p.skipped + 1; m[2] != "" && m[2] != strconv.Itoa(n) {
			p.complaints = append(p.complaints, fmt.Sprintf("point %d has the number %s", n, m[2]))
		}
		d := directive.FindStringSubmatch(m[3])
		switch {
		case m[1] != "":
			p.failed++
			p.complaints = append(p.complaints, line)
		case d != nil && strings.EqualFold(d[1], "skip"):
			p.skipped++
		default:
			p.ok++
		}
	}
	if n := p.ok + p.failed + p.skipped; n == 0 {
		p.complaints = append(p.complaints, "no test point")
	} else if p.plan >= 0 && p.plan != n {
		p.complaints = append(p.complaints, fmt.Sprintf("%d points, %d planned", n, p.plan))
	} else if p.plan < 0 {
		p.complaints = append(p.complaints, "no plan")
	}
	return p
}

func TestTAP(t *testing.T) {
	for _, c := range []struct {
		name, out string
		want      tap
	}{
		{"passes", "TAP version 13\nok 1 - a\nok 2 - b\n1..2\n", tap{ok: 2, plan: 2}},
		{"plan first", "1..1\nok 1 - a\r\n", tap{ok: 1, plan: 1}},
		{"skips", "TAP version 13\n1..1\nok 1 # SKIP no AppArmor\n", tap{skipped: 1, plan: 1}},

		{"indented lines belong to YAML", "ok 1 - a\n  ---\n  not ok 7\n  ...\n1..1\n", tap{ok: 1, plan: 1}},
		{"fails", "ok 1 - a\nnot ok 2 - b\n1..2\n", tap{ok: 1, failed: 1, plan: 2, complaints: []string{"not ok 2 - b"}}},
		{"a failure to come is a failure", "not ok 1 # TODO b\n1..1\n", tap{failed: 1, plan: 1, complaints: []string{"not ok 1 # TODO b"}}},
		{"silence", "", tap{plan: -1, complaints: []string{"no test point"}}},
		{"only a plan", "1..0\n", tap{plan: 0, complaints: []string{"no test point"}}},
		{"cut short", "1..3\nok 1\n", tap{ok: 1, plan: 3, complaints: []string{"1 points, 3 planned"}}},
		{"no plan", "ok 1\n", tap{ok: 1, plan: -1, complaints: []string{"no plan"}}},
		{"two outputs in one", "ok 1\n1..1\nok 1\n1..1\n", tap{ok: 2, plan: 1, complaints: []string{"point 2 has the number 1", "a second plan: 1..1", "2 points, 1 planned"}}},
		{"gives up", "ok 1\nBail out! no root\n1..1\n", tap{ok: 1, plan: 1, complaints: []string{"Bail out! no root"}}},
		{"no word of its own", "okay\n1..1\nok 1\n", tap{ok: 1, plan: 1}},
	} {
		if got := parseTAP(c.out); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
