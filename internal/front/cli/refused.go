package cli

import (
	_ "embed"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// refused says which verbs and flags of docker and podman Brig does not have, and why: errors and doc/commands.md are made from it. It is
// read when a command line has failed, never for a good one.
//
//go:embed refused.txt
var refused string

// A Refusal is a verb, with all below it, or a flag that Brig does not have.
type Refusal struct {
	Verb   string // as VerbOf names it
	Flag   string // with its dashes; empty: the verb itself
	Reason string // and what to do instead
}

// Refusals are all, in the order of refused.txt: a line names VERB, VERB, … | FLAG, FLAG, … | REASON.
func Refusals() iter.Seq[Refusal] {
	return func(yield func(Refusal) bool) {
		for line := range strings.Lines(refused) {
			verbs, rest, ok := strings.Cut(strings.TrimSpace(line), "|")
			if !ok || strings.HasPrefix(line, "#") {
				continue
			}
			flags, reason, _ := strings.Cut(rest, "|")
			for _, verb := range strings.Split(verbs, ",") {
				for _, flag := range strings.Split(flags, ",") {
					if !yield(Refusal{strings.TrimSpace(verb), strings.TrimSpace(flag), strings.TrimSpace(reason)}) {
						return
					}
				}
			}
		}
	}
}

// Refused looks up a verb, with flag == "", or a verb's flag. What is refused of a verb is refused of all below it.
func Refused(verb, flag string) (reason string, ok bool) {
	for r := range Refusals() {
		if r.Flag == flag && (r.Verb == verb || flag == "" && strings.HasPrefix(verb, r.Verb+" ")) {
			return r.Reason, true
		}
	}
	return "", false
}

// verbAnnotation keeps, of a command of a group, the command of the top that it is.
const verbAnnotation = "verb"

// VerbOf is a command's name in refused.txt: without the program's unless that is all, and of a command that is at the top and in a group the
// one at the top.
func VerbOf(cmd *cobra.Command) string {
	if top := cmd.Annotations[verbAnnotation]; top != "" {
		return top
	}
	return strings.TrimPrefix(cmd.CommandPath(), "brig ")
}

// refusing returns a command that says why there is none of its name, or nil.
func refusing(name, path string) *cobra.Command {
	reason, ok := Refused(strings.TrimPrefix(path+" "+name, "brig "), "")
	if !ok {
		return nil
	}
	return &cobra.Command{
		Use: name, Hidden: true, DisableFlagParsing: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{err: fmt.Errorf("%s is not supported: %s", cmd.CommandPath(), reason), path: path, code: codeBrig}
		},
	}
}

// refusedFlag turns the complaint about a flag that cmd does not have into one that says why, where docker or podman has it.
func refusedFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	flag := "-" + unknown.GetSpecifiedName()
	if unknown.GetSpecifiedShortnames() == "" {
		flag = "-" + flag
	}
	reason, ok := Refused(VerbOf(cmd), flag)
	if !ok {
		return err
	}
	return fmt.Errorf("%s: %s is not supported: %s", VerbOf(cmd), flag, reason)
}
