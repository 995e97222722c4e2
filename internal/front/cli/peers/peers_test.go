package peers_test

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"brig/api"
	"brig/internal/front/cli"
	"brig/internal/front/cli/peers"
)

// brig runs a command line that must not get as far as an engine.
func brig(t *testing.T, args ...string) (code int, errOut string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(context.Background(), args, api.Streams{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs},
		func(cli.Options) cli.Engine { t.Errorf("%q asked for an engine", args); return nil },
		nil)
	return code, errs.String()
}

// TestNoHole: every verb and flag of docker and podman works or is refused with a reason, by its name, its shorthand and its other names.
func TestNoHole(t *testing.T) {
	rows := 0
	for _, e := range peers.Table() {
		rows += len(e.Rows)
		for i, r := range e.Rows {
			switch {
			case r.Brig:
			case r.Refused == "":
				t.Errorf("%s %s: docker %t, podman %t, Brig neither has it nor refuses it: give it a line in refused.txt", e.Verb, r.Flag, r.Docker, r.Podman)
			case i == 0:
				code, said := brig(t, append(strings.Fields(e.Verb), "--any", "thing")...)
				if code != 125 || !strings.Contains(said, e.Verb+" is not supported: "+r.Refused) {
					t.Errorf("brig %s: code %d, %q", e.Verb, code, said)
				}
			default:
				for flag := range strings.SplitSeq(r.Flag, ", ") {
					args := append(strings.Fields(e.Verb), flag)
					if e.Verb == "brig" {
						args = []string{flag, "ps"}
					}
					if code, said := brig(t, args...); code != 125 || !strings.Contains(said, flag+" is not supported: "+r.Refused) {
						t.Errorf("brig %s %s: code %d, %q", e.Verb, flag, code, said)
					}
				}
			}
		}
	}
	if rows < 700 {
		t.Errorf("%d rows: the records cannot be whole", rows)
	}
}

// TestRefusalsAreNews: a line of refused.txt is about something that docker or podman has and Brig has not.
func TestRefusalsAreNews(t *testing.T) {
	table := peers.Table()
	later := []string{"buildx", "container umount", "image umount", "umount"} // plugins and other names
	for r := range cli.Refusals() {
		i := slices.IndexFunc(table, func(e peers.Entry) bool { return e.Verb == r.Verb })
		if r.Reason == "" || strings.HasSuffix(r.Reason, ".") {
			t.Errorf("%s %s: the reason %q is none, or ends with a dot", r.Verb, r.Flag, r.Reason)
		}
		if slices.Contains(later, r.Verb) || strings.HasPrefix(r.Flag, "-") && !strings.HasPrefix(r.Flag, "--") {
			continue // shorthands are tried by TestNoHole
		}
		if i < 0 {
			t.Errorf("refused.txt: nobody has the verb %q", r.Verb)
			continue
		}
		j := slices.IndexFunc(table[i].Rows, func(row peers.Row) bool { return row.Name == r.Flag })
		if j < 0 || table[i].Rows[j].Brig {
			t.Errorf("refused.txt: %s %s is refused, but Brig has it, or nobody has", r.Verb, r.Flag)
		}
	}
}

// TestSpellings holds Brig's flags against docker's, and where docker has none against podman's: the same shorthand and need of a value.
func TestSpellings(t *testing.T) {
	theirs := map[string]map[string]peers.Flag{}
	for _, verbs := range [][]peers.Verb{peers.Podman(), peers.Docker()} { // docker's word is the last
		for verb, flags := range peers.Canonical(verbs) {
			if theirs[verb] == nil {
				theirs[verb] = map[string]peers.Flag{}
			}
			for _, f := range flags {
				theirs[verb][f.Name] = f
			}
		}
	}
	for verb, flags := range peers.Brig() {
		for _, f := range flags {
			want, known := theirs[verb][f.Name]
			if key := verb + " --" + f.Name; known && want != f && differs[key] == "" {
				t.Errorf("brig %s has %s, theirs is %s", verb, f, want)
			} else if known && want == f && differs[key] != "" {
				t.Errorf("%s: it does not differ any more", key)
			}
		}
	}
}

// differs are the flags that are spelled otherwise on purpose.
var differs = map[string]string{
	"stop --time":    "docker's -t is --timeout's",
	"restart --time": "docker's -t is --timeout's",
	"logs --names":   "docker's -n is --tail's",
	"rm --latest":    "docker's -l is --link's",
}

// TestAliases: a verb's other names are Brig's too.
func TestAliases(t *testing.T) {
	for _, v := range append(peers.Docker(), peers.Podman()...) {
		group := strings.Fields(v.Name)
		group = group[:max(len(group)-1, 0)]
		for _, alias := range v.Aliases {
			args := append(group, alias, "--help")
			code, said := brig(t, args...)
			if code != 0 && !strings.Contains(said, "is not supported: ") {
				t.Errorf("brig %s: code %d, %q", strings.Join(args, " "), code, said)
			}
		}
	}
}

func TestPageIsFresh(t *testing.T) {
	page, err := os.ReadFile("../../../../doc/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != peers.Markdown() {
		t.Error("doc/commands.md is not what the commands say: make commands")
	}
}

func TestParse(t *testing.T) {
	record := peers.Format(peers.Docker())
	if record != peers.Format(peers.Parse(record)) {
		t.Error("a record does not come back as it was")
	}
	if !regexp.MustCompile(`(?m)^container ls\|list\|ps: -a,--all -f,--filter= `).MatchString(record) {
		t.Error("container ls is not as docker has it")
	}
}
