package peers

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// Verb is a command and what may stand behind it.
type Verb struct {
	Name    string   // without the program's: container ls
	Aliases []string // of the last word
	Flags   []Flag
}

// Flag is one of a verb's.
type Flag struct {
	Name  string // without dashes
	Short string // one letter; empty: none
	Value bool   // it takes one
}

// String is the flag as it stands in a record: -e,--env= or --rm.
func (f Flag) String() string {
	s := "--" + f.Name
	if f.Short != "" {
		s = "-" + f.Short + "," + s
	}
	if f.Value {
		s += "="
	}
	return s
}

// flagLine is how the help of docker and podman declares a flag: "  -e, --env list   Set …". What takes no value has no word before the gap.
const flagLine = `^ {2,6}(?:-(\w), )?--([a-z0-9][\w-]*)(?: (\S+))?(?: {2,}.*)?$`

// parseHelp reads what PROGRAM VERB --help says: the verb's flags, the other names of its last word, and the verbs below it.
func parseHelp(name, text string) (v Verb, below []string) {
	v.Name = name
	flag, command := regexp.MustCompile(flagLine), regexp.MustCompile(`^  ([a-z][\w-]*)\*? +\S`)
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n ")
		if line != "" && line[0] != ' ' {
			section = line
			continue
		}
		switch {
		case strings.HasSuffix(section, "Options:"):
			if m := flag.FindStringSubmatch(line); m != nil && m[2] != "help" {
				v.Flags = append(v.Flags, Flag{Name: m[2], Short: m[1], Value: m[3] != ""})
			}
		case strings.HasSuffix(section, "Commands:"):
			if m := command.FindStringSubmatch(line); m != nil && m[1] != "help" {
				below = append(below, m[1])
			}
		case section == "Aliases:":
			for _, a := range strings.Split(strings.TrimSpace(line), ", ") {
				words := strings.Fields(a)
				// Docker writes all names from the program on; those of the top are verbs of their own.
				if len(words) != 1 && len(words) != 1+len(strings.Fields(name)) || a == "" {
					continue
				}
				if last := words[len(words)-1]; !strings.HasSuffix(" "+name, " "+last) && !slices.Contains(v.Aliases, last) {
					v.Aliases = append(v.Aliases, last)
				}
			}
		}
	}
	return v, below
}

// Ask asks an installed program for all its verbs.
func Ask(program string) ([]Verb, error) {
	var all []Verb
	var ask func(name string) error
	ask = func(name string) error {
		out, err := exec.Command(program, append(strings.Fields(name), "--help")...).Output()
		if err != nil {
			return fmt.Errorf("%s %s --help: %w", program, name, err)
		}
		v, below := parseHelp(name, string(out))
		all = append(all, v)
		for _, b := range below {
			if err := ask(strings.TrimSpace(name + " " + b)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := ask(""); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(x, y Verb) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// Format writes verbs as a record, a line each: container ls|list|ps: -a,--all -f,--filter=
func Format(verbs []Verb) string {
	var b strings.Builder
	for _, v := range verbs {
		b.WriteString(strings.Join(append([]string{v.Name}, v.Aliases...), "|") + ":")
		for _, f := range v.Flags {
			b.WriteString(" " + f.String())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Parse reads a record.
func Parse(text string) []Verb {
	var all []Verb
	for line := range strings.Lines(text) {
		head, flags, _ := strings.Cut(line, ":")
		names := strings.Split(head, "|")
		v := Verb{Name: names[0], Aliases: names[1:]}
		for _, w := range strings.Fields(flags) {
			var f Flag
			w, f.Value = strings.CutSuffix(w, "=")
			short, long, both := strings.Cut(w, ",")
			if !both {
				long = short
			} else {
				f.Short = short[1:]
			}
			f.Name = long[2:]
			v.Flags = append(v.Flags, f)
		}
		all = append(all, v)
	}
	return all
}
