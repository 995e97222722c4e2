package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is where help wraps the words of a flag, in characters; docker's for a terminal that does not say.
const helpWidth = 100

// help prints what a command does, then its usage.
func help(cmd *cobra.Command, _ []string) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Usage:  %s\n\n", cmd.UseLine())
	about := cmd.Long
	if about == "" {
		about = cmd.Short
	}
	fmt.Fprintln(out, about)
	fmt.Fprint(out, body(cmd))
}

// usage prints how a command is called.
func usage(cmd *cobra.Command) error {
	_, err := fmt.Fprintf(cmd.OutOrStderr(), "Usage:  %s\n%s", cmd.UseLine(), body(cmd))
	return err
}

// body writes examples, subcommands and options. It is written by hand because cobra's own goes through a template.
func body(cmd *cobra.Command) string {
	var b strings.Builder
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(&b, "\nAliases:\n  %s\n", cmd.NameAndAliases())
	}
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				fmt.Fprintf(&b, "  %-12s %s\n", c.Name(), c.Short)
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(&b, "\nOptions:\n%s", cmd.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
	return b.String()
}

// each value of a flag of this type is handed to set, in the order of the command line.
type value struct {
	kind string // what help shows: list, string, bytes
	text string // the default that help shows
	set  func(string) error
}

var _ pflag.Value = (*value)(nil)

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return v.kind }

// Set hands over s.
func (v *value) Set(s string) error { return v.set(s) }

// list declares a flag that may be repeated; add is called for each occurrence.
func list(f *pflag.FlagSet, name, short, about string, add func(string) error) {
	f.VarP(&value{kind: "list", set: add}, name, short, about)
}

// parsed declares a flag whose last occurrence counts, kept by set.
func parsed(f *pflag.FlagSet, name, short, kind, about string, set func(string) error) {
	f.VarP(&value{kind: kind, set: set}, name, short, about)
}

// appendTo returns a function that keeps what parse makes of each value.
func appendTo[T any](dst *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := parse(s)
		if err == nil {
			*dst = append(*dst, v)
		}
		return err
	}
}

// assign returns a function that keeps what parse makes of the last value.
func assign[T any](dst *T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		v, err := parse(s)
		if err == nil {
			*dst = v
		}
		return err
	}
}

// plain keeps a value as it is typed.
func plain(s string) (string, error) { return s, nil }
