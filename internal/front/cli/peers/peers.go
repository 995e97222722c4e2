// Package peers compares Brig's command line with docker's and podman's: every verb and flag of theirs either works or is refused with its
// reason. The records docker.txt and podman.txt hold what their --help said; `make commands` asks installed programs again, and writes
// doc/commands.md. It is linked by the generator and by tests only.
package peers

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/internal/front/cli"
)

//go:embed docker.txt
var dockerRecord string

//go:embed podman.txt
var podmanRecord string

// Row is a flag, or with an empty name the verb itself, and who has it.
type Row struct {
	Flag                 string // as typed, with its shorthand: -e, --env
	Name                 string // the flag's, with its dashes
	Docker, Podman, Brig bool
	Refused              string // why Brig has not; empty and !Brig: the table has a hole
}

// Entry is a verb: its own row, then its flags by name.
type Entry struct {
	Verb string
	Rows []Row
}

// Table joins the records, Brig's commands and the refusals.
func Table() []Entry {
	entries := map[string]map[string]*Row{}
	row := func(verb string, f *Flag) *Row {
		if entries[verb] == nil {
			entries[verb] = map[string]*Row{"": {}}
		}
		if f == nil {
			return entries[verb][""]
		}
		r := entries[verb][f.Name]
		if r == nil {
			r = &Row{Flag: "--" + f.Name, Name: "--" + f.Name}
			entries[verb][f.Name] = r
		}
		if f.Short != "" {
			r.Flag = "-" + f.Short + ", --" + f.Name
		}
		return r
	}
	add := func(verbs map[string][]Flag, has func(*Row) *bool) {
		for verb, flags := range verbs {
			*has(row(verb, nil)) = true
			for _, f := range flags {
				*has(row(verb, &f)) = true
			}
		}
	}
	add(Brig(), func(r *Row) *bool { return &r.Brig })
	add(Canonical(Docker()), func(r *Row) *bool { return &r.Docker })
	add(Canonical(Podman()), func(r *Row) *bool { return &r.Podman })
	var all []Entry
	for _, verb := range slices.Sorted(maps.Keys(entries)) {
		if above, _, below := cutLast(verb); below {
			if _, refused := cli.Refused(above, ""); refused {
				continue // it goes with its group
			}
		}
		e := Entry{Verb: verb}
		for _, name := range slices.Sorted(maps.Keys(entries[verb])) {
			r := entries[verb][name]
			if !r.Brig {
				r.Refused, _ = cli.Refused(verb, r.Name)
			}
			e.Rows = append(e.Rows, *r)
		}
		if e.Rows[0].Refused != "" {
			e.Rows = e.Rows[:1] // its flags go with it
		}
		all = append(all, e)
	}
	return all
}

// cutLast cuts a verb before its last word.
func cutLast(verb string) (above, last string, below bool) {
	i := strings.LastIndexByte(verb, ' ')
	return verb[:max(i, 0)], verb[i+1:], i >= 0
}

// Docker and Podman are the recorded verbs.
func Docker() []Verb { return Parse(dockerRecord) }

// Podman see Docker.
func Podman() []Verb { return Parse(podmanRecord) }

// Brig is Brig's own commands with their flags.
func Brig() map[string][]Flag {
	flags, _ := brigVerbs()
	return flags
}

// CanonicalNames gives, for each name of a command that has another in refused.txt, that one: container run is run.
func CanonicalNames() map[string]string {
	_, canonical := brigVerbs()
	return canonical
}

// Canonical gives each verb its name in refused.txt; those that are one command of Brig's become one.
func Canonical(verbs []Verb) map[string][]Flag {
	_, canonical := brigVerbs()
	all := map[string][]Flag{}
	for _, v := range verbs {
		name := v.Name
		if top := canonical[name]; top != "" {
			name = top
		}
		if name == "" {
			name = "brig"
		}
		for _, f := range v.Flags {
			if !slices.ContainsFunc(all[name], func(o Flag) bool { return o.Name == f.Name }) {
				all[name] = append(all[name], f)
			}
		}
		if all[name] == nil {
			all[name] = []Flag{}
		}
	}
	return all
}

// brigVerbs are Brig's commands with their flags, and for each name of a command that has a shorter one at the top, that one.
func brigVerbs() (flags map[string][]Flag, canonical map[string]string) {
	flags, canonical = map[string][]Flag{}, map[string]string{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
				continue
			}
			verb := cli.VerbOf(c)
			_, parent, _ := strings.Cut(cmd.CommandPath(), " ")
			for _, name := range append(c.Aliases, c.Name()) {
				if full := strings.TrimSpace(parent + " " + name); full != verb {
					canonical[full] = verb
				}
			}
			flags[verb] = flagsOf(c)
			walk(c)
		}
	}
	root := cli.Tree()
	walk(root)
	root.InitDefaultVersionFlag()
	flags["brig"] = flagsOf(root)
	return flags, canonical
}

func flagsOf(c *cobra.Command) (list []Flag) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			list = append(list, Flag{Name: f.Name, Short: f.Shorthand, Value: f.NoOptDefVal == ""})
		}
	})
	return list
}

// Markdown is doc/commands.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(head)
	mark := func(has bool) string {
		if has {
			return "yes"
		}
		return ""
	}
	var groups []string // refused verbs without a page of their own
	for _, e := range Table() {
		r := e.Rows[0]
		if r.Refused != "" {
			groups = append(groups, fmt.Sprintf("| %s | %s | %s | refused: %s |\n", e.Verb, mark(r.Docker), mark(r.Podman), r.Refused))
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n| | docker | podman | Brig |\n|---|---|---|---|\n", e.Verb)
		for i, r := range e.Rows {
			what, brig := "`"+r.Flag+"`", "works"
			if i == 0 {
				what = "the verb"
			}
			if !r.Brig {
				brig = "refused: " + r.Refused
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", what, mark(r.Docker), mark(r.Podman), brig)
		}
	}
	b.WriteString("\n# Verbs that Brig does not have\n| | docker | podman | Brig |\n|---|---|---|---|\n" + strings.Join(groups, ""))
	return b.String()
}

const head = `# Verbs and flags

All verbs and flags of docker 28.2 and podman 4.3, and what Brig does with them. Nothing is accepted and ignored: what is refused ends with exit code 125 and
a message that names it and the reason below. A verb of a group that is also at the top, as ` + "`brig container run`" + `, stands here once.
` + "`make commands`" + ` makes this page of the programs' --help and of internal/front/cli/refused.txt.
`
