package script

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

// step is a command line of README and what it shall print.
type step struct {
	line    int
	command string
	want    []string
}

// steps reads the console blocks of a page: "$ " begins a command, what follows is its output.
func steps(page string) []step {
	var out []step
	in := false
	for n, line := range strings.Split(page, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			in = line == "```console"
		case in && strings.HasPrefix(line, "$ "):
			out = append(out, step{line: n + 1, command: line[2:]})
		case in && len(out) > 0:
			out[len(out)-1].want = append(out[len(out)-1].want, line)
		}
	}
	return out
}

// matches compares output with the page's: runs of blanks are one, … is anything within a line, and a line of … alone is any lines.
func matches(want []string, got string) bool {
	var p strings.Builder
	p.WriteString(`\A`)
	for _, w := range want {
		if strings.TrimSpace(w) == "…" {
			p.WriteString(`(?:.*\n)*`)
			continue
		}
		p.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.Join(strings.Fields(w), " ")), "…", ".*") + `\n`)
	}
	p.WriteString(`\z`)
	var lines strings.Builder
	for line := range strings.Lines(got) {
		lines.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return regexp.MustCompile(p.String()).MatchString(lines.String())
}

func TestReadmeTour(t *testing.T) {
	needRoot(t)
	if !machine.First() {
		return
	}
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	tour := steps(string(page))
	if len(tour) < 10 {
		t.Fatalf("README's tour has %d commands: has its form changed?", len(tour))
	}
	before, err := machine.Take()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	env := os.Environ()
	state, err := brigEnv(dir+"/.brig", func(k, v string) { env = append(env, k+"="+v) })
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(state)
	defer leaveNothing(t, before, filepath.Join(os.Getenv(binEnv), "brig"), env)
	for _, s := range tour {
		if got, ok := play(s, dir, env); !ok {
			t.Errorf("README.md:%d: $ %s\nwant:\n%s\ngot:\n%s", s.line, s.command, strings.Join(s.want, "\n"), got)
		}
	}
}

// play runs a step, once more for two seconds where it asks a server that may still be starting.
func play(s step, dir string, env []string) (got string, ok bool) {
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), machine.Patience(time.Minute))
		cmd := exec.CommandContext(ctx, "bash", "-c", s.command)
		cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, time.Second
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			out = append(out, fmt.Sprintf("[%v]\n", err)...)
		}
		got, ok = string(out), matches(s.want, string(out))
		if ok || !strings.Contains(s.command, "http://") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return got, ok
}

func TestReadmeMatching(t *testing.T) {
	for _, c := range []struct {
		want []string
		got  string
		ok   bool
	}{
		{nil, "", true},
		{nil, "x\n", false},
		{[]string{"a  b"}, "a      b\n", true},
		{[]string{"a …", "z"}, "a b c\nz\n", true},
		{[]string{"a …"}, "b c\n", false},
		{[]string{"…", "z"}, "1\n2\nz\n", true},
		{[]string{"…", "z"}, "1\n2\n", false},
		{[]string{"a.c"}, "abc\n", false},
	} {
		if got := matches(c.want, c.got); got != c.ok {
			t.Errorf("matches(%q, %q) = %v", c.want, c.got, got)
		}
	}
	got := steps("```sh\n$ no\n```\n```console\n$ one\nout\n$ two\n```\n$ no\n")
	if len(got) != 2 || got[0].command != "one" || len(got[0].want) != 1 || got[1].line != 7 {
		t.Errorf("steps = %+v", got)
	}
}
