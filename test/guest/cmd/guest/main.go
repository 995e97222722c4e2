// Command guest builds the test guest and runs things in it: see package brig/test/guest.
//
//	guest build [-measure]         what make guest does; how long ten restores take
//	guest run [-C DIR] -- CMD…     a command in a fresh clone: its streams, its exit status
//	guest sh                       a shell in a fresh clone, gone at its end
//	guest test [-run REGEXP] PKG…  the tests of packages, each in a fresh clone, or shared out among several
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"brig/test/guest"
	"brig/test/guest/wire"
)

const usage = "guest build [-measure] | run [-C DIR] [--] CMD… | sh | test [-run REGEXP] [-timeout DURATION] [-parts N] PKG…"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		if code <= 0 {
			code = 1
		}
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	if len(args) == 0 {
		return 2, fmt.Errorf("what? %s", usage)
	}
	switch args[0] {
	case "build":
		set := flag.NewFlagSet("build", flag.ExitOnError)
		measure := set.Bool("measure", false, "restore ten times and say how long it took")
		set.Parse(args[1:])
		if _, err := guest.Build(ctx, os.Stdout); err != nil || !*measure {
			return 0, err
		}
		return 0, restores(ctx)
	case "run":
		set := flag.NewFlagSet("run", flag.ExitOnError)
		dir := set.String("C", "", "working directory in the guest")
		set.Parse(args[1:])
		if set.NArg() == 0 {
			return 2, fmt.Errorf("run what? %s", usage)
		}
		return command(ctx, wire.Command{Args: set.Args(), Dir: *dir})
	case "sh":
		return shell(ctx)
	case "test":
		set := flag.NewFlagSet("test", flag.ExitOnError)
		pattern := set.String("run", "", "tests to run, a regular expression")
		timeout := set.Duration("timeout", 20*time.Minute, "of a package, or of a part of one")
		parts := set.Int("parts", 1, "clones that share out the tests of a package which knows how, two of them at a time")
		set.Parse(args[1:])
		return guest.Test(ctx, os.Stdout, guest.TestOptions{Run: *pattern, Timeout: *timeout, Parts: *parts}, set.Args()...)
	}
	return 2, fmt.Errorf("%s: no such command: %s", args[0], usage)
}

// restores measures ten times from nothing to the agent's first answer, and to the exit status of a first command.
func restores(ctx context.Context) error {
	var answer, command []time.Duration
	for range 10 {
		begun := time.Now()
		g, err := guest.Start(ctx)
		if err != nil {
			return err
		}
		answer = append(answer, time.Since(begun))
		_, err = g.Output(ctx, "/bin/true")
		command = append(command, time.Since(begun))
		g.Close()
		if err != nil {
			return err
		}
	}
	for _, m := range []struct {
		what string
		took []time.Duration
	}{{"restored to the agent's answer", answer}, {"and a first command's exit status", command}} {
		slices.Sort(m.took)
		fmt.Printf("%s: median of ten %.2f s, %.2f to %.2f\n", m.what, (m.took[4]+m.took[5]).Seconds()/2, m.took[0].Seconds(), m.took[9].Seconds())
	}
	return nil
}

func command(ctx context.Context, c wire.Command) (int, error) {
	g, err := guest.Start(ctx)
	if err != nil {
		return 1, err
	}
	defer g.Close()
	return g.Client.Run(ctx, c, wire.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

// shell gives the terminal, if there is one, to a shell.
func shell(ctx context.Context) (int, error) {
	c := wire.Command{Args: []string{"/bin/bash", "-l"}, Env: []string{"TERM=" + os.Getenv("TERM")}}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return command(ctx, c)
	}
	g, err := guest.Start(ctx)
	if err != nil {
		return 1, err
	}
	defer g.Close()
	columns, rows, err := term.GetSize(fd)
	if err != nil {
		return 1, err
	}
	c.Size = &wire.Size{Rows: uint16(rows), Columns: uint16(columns)}
	sizes, winch := make(chan wire.Size, 1), make(chan os.Signal, 1)
	signal.Notify(winch, unix.SIGWINCH)
	go func() {
		for range winch {
			if columns, rows, err := term.GetSize(fd); err == nil {
				sizes <- wire.Size{Rows: uint16(rows), Columns: uint16(columns)}
			}
		}
	}()
	old, err := term.MakeRaw(fd)
	if err != nil {
		return 1, err
	}
	defer term.Restore(fd, old)
	return g.Client.Run(ctx, c, wire.IO{In: os.Stdin, Out: os.Stdout, Resize: sizes})
}
