// Gen writes what `make install` puts beside the program: manual pages into DIR/man1, shell completions into DIR/completion. It is a
// program of its own because the writer of manuals is heavy, and `brig` must start fast.
//
//	go run ./internal/front/cli/gen DIR
//
// and doc/commands.md, and the records of docker's and podman's help that it is made from:
//
//	go run ./internal/front/cli/gen -ask
//	go run ./internal/front/cli/gen -commands
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"brig/internal/front/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "gen: name one folder to write to")
		os.Exit(1)
	}
	var err error
	switch arg := os.Args[1]; arg {
	case "-ask", "-commands":
		err = commands("doc/commands.md", "internal/front/cli/peers", arg == "-ask")
	default:
		err = generate(arg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// generate writes all files below dir. They depend on the commands only, not on the day or the machine.
func generate(dir string) error {
	man, completion := filepath.Join(dir, "man1"), filepath.Join(dir, "completion")
	for _, d := range []string{man, completion} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	root := cli.Tree()
	epoch := time.Unix(0, 0)
	header := &doc.GenManHeader{Section: "1", Source: "Brig", Manual: "Brig Manual", Date: &epoch}
	if err := doc.GenManTree(pages(cli.Tree()), header, man); err != nil {
		return fmt.Errorf("manual pages: %w", err)
	}
	// The names are those under which the shells look for a program's completion.
	for _, c := range []struct {
		file  string
		write func(string) error
	}{
		{"brig", func(f string) error { return root.GenBashCompletionFileV2(f, true) }},
		{"_brig", root.GenZshCompletionFile},
		{"brig.fish", func(f string) error { return root.GenFishCompletionFile(f, true) }},
	} {
		if err := c.write(filepath.Join(completion, c.file)); err != nil {
			return fmt.Errorf("completion %s: %w", c.file, err)
		}
	}
	return nil
}

// pages makes a tree ready to be written as pages: without the line that says when and by what a page was made, and with angle brackets
// that the writer, which reads Markdown, does not take for HTML.
func pages(root *cobra.Command) *cobra.Command {
	root.DisableAutoGenTag = true
	root.Flags().VisitAll(func(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "<", `\<`) })
	for _, c := range root.Commands() {
		pages(c)
	}
	return root
}
