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
	errors              []string // of the YAML blocks: programs without test points complain there
	complaints          []string // "not ok" lines and breaches of the protocol
}

// parseTAP reads one stream, or several behind each other, each with a line of its own for the version. A stream whose plan is empty adds
// nothing.
func parseTAP(out string) tap {
	all := tap{plan: -1}
	for i, stream := range strings.Split("\n"+out, "\nTAP version 13") {
		if i == 0 && strings.TrimSpace(stream) == "" {
			continue
		}
		p := parseStream(stream)
		all.ok, all.failed, all.skipped = all.ok+p.ok, all.failed+p.failed, all.skipped+p.skipped
		all.complaints, all.errors = append(all.complaints, p.complaints...), append(all.errors, p.errors...)
		if p.plan >= 0 {
			all.plan = max(all.plan, 0) + p.plan
		}
	}
	return all
}

func parseStream(out string) tap {
	point := regexp.MustCompile(`^(not )?ok\b(?: +(\d+))?(.*)$`)
	plan := regexp.MustCompile(`^1\.\.(\d+)( *#.*)?$`)
	directive := regexp.MustCompile(`(?i)^[^#]*# *(skip|todo)\b`)
	diagnostic := regexp.MustCompile(`^ +"error": "(.+)",?$`)
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
		if m := diagnostic.FindStringSubmatch(line); m != nil {
			p.errors = append(p.errors, m[1])
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
	if n := p.ok + p.failed + p.skipped; p.plan >= 0 && p.plan != n {
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

		{"a hash in the text", "ok 1 - color #skipper is no directive\n1..1\n", tap{ok: 1, plan: 1}},
		{"indented lines belong to YAML", "ok 1 - a\n  ---\n  not ok 7\n  ...\n1..1\n", tap{ok: 1, plan: 1}},
		{"fails", "ok 1 - a\nnot ok 2 - b\n1..2\n", tap{ok: 1, failed: 1, plan: 2, complaints: []string{"not ok 2 - b"}}},
		{"a failure to come is a failure", "not ok 1 # TODO b\n1..1\n", tap{failed: 1, plan: 1, complaints: []string{"not ok 1 # TODO b"}}},
		{"silence", "", tap{plan: -1}},
		{"only a plan", "TAP version 13\n1..0\n", tap{plan: 0}},
		{"a complaint without a point", "TAP version 13\n  ---\n  {\n    \"error\": \"hooks MUST\"\n  }\n  ...\n1..0\n", tap{plan: 0, errors: []string{"hooks MUST"}}},
		{"no error", "ok 1\n  ---\n  {\n    \"error\": \"\"\n  }\n  ...\n1..1\n", tap{ok: 1, plan: 1}},
		{"two streams", "TAP version 13\nok 1\nok 2\n1..2\nTAP version 13\n1..0\n", tap{ok: 2, plan: 2}},
		{"a stream cut short", "TAP version 13\nok 1\nTAP version 13\nok 1\n1..1\n", tap{ok: 2, plan: 1, complaints: []string{"no plan"}}},
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
