// Gen writes what `make install` puts beside the program: manual pages into DIR/man1, shell completions into DIR/completion. It is a
// program of its own because the writer of manuals is heavy, and `brig` must start fast.
//
//	go run ./internal/front/cli/gen DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"brig/internal/front/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "gen: name one folder to write to")
		os.Exit(1)
	}
	if err := generate(os.Args[1]); err != nil {
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
	if err := doc.GenManTree(undated(root), header, man); err != nil {
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

// undated removes the line that says when and by what a page was made.
func undated(root *cobra.Command) *cobra.Command {
	root.DisableAutoGenTag = true
	for _, c := range root.Commands() {
		undated(c)
	}
	return root
}
