package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// member is a command of a group: a command of the top by another name, or one that exists in the group only, as prune does.
type member struct {
	name      string
	top       string // the command of [commands] that it is; one that is not there is left out
	construct func(*app) *cobra.Command
	aliases   []string
}

func (a *app) imageGroup() *cobra.Command {
	return a.group("image", "Manage images", "  brig image ls\n  brig image rm debian:11", []member{
		{name: "exists", construct: (*app).imageExists}, {name: "history", top: "history"}, {name: "import", top: "import"}, {name: "inspect", construct: inspectOf("image")}, {name: "load", top: "load"},
		{name: "ls", top: "images", aliases: []string{"list"}}, {name: "prune", construct: (*app).imagePrune}, {name: "pull", top: "pull"}, {name: "push", top: "push"},
		{name: "rm", top: "rmi", aliases: []string{"rmi", "remove"}}, {name: "save", top: "save"}, {name: "search", top: "search"}, {name: "tag", top: "tag"}, {name: "trust", construct: (*app).imageTrust}, {name: "untag", top: "untag"},
	})
}

func (a *app) containerGroup() *cobra.Command {
	return a.group("container", "Manage containers", "  brig container ls -a\n  brig container rm web", []member{
		{name: "attach", top: "attach"}, {name: "checkpoint", construct: (*app).containerCheckpoint}, {name: "commit", top: "commit"}, {name: "cp", top: "cp"}, {name: "create", top: "create"}, {name: "diff", top: "diff"},
		{name: "exec", top: "exec"}, {name: "exists", construct: (*app).containerExists}, {name: "export", top: "export"}, {name: "init", top: "init"}, {name: "inspect", construct: inspectOf("container")}, {name: "kill", top: "kill"},
		{name: "logs", top: "logs"}, {name: "ls", top: "ps", aliases: []string{"ps", "list"}}, {name: "pause", top: "pause"}, {name: "port", top: "port"}, {name: "prune", construct: (*app).containerPrune},
		{name: "rename", top: "rename"}, {name: "restore", construct: (*app).containerRestore}, {name: "restart", top: "restart"}, {name: "rm", top: "rm", aliases: []string{"remove"}}, {name: "run", top: "run"},
		{name: "start", top: "start"}, {name: "stats", top: "stats"}, {name: "stop", top: "stop"}, {name: "top", top: "top"},
		{name: "unpause", top: "unpause"}, {name: "update", top: "update"}, {name: "wait", top: "wait"},
	})
}

// group makes a command of commands. Of these only the one that was asked for is constructed, as at the top.
func (a *app) group(name, short, example string, members []member) *cobra.Command {
	cmd := &cobra.Command{
		Use:     name + " COMMAND",
		Short:   short,
		Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return &usageError{err: fmt.Errorf("unknown command: brig %s %s", name, args[0]), use: cmd.UseLine(), path: cmd.CommandPath()}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	wanted := ""
	if at := slices.Index(a.args, name); commandName(a.args) == name && at >= 0 && at+1 < len(a.args) {
		wanted = a.args[at+1]
	}
	var all []*cobra.Command
	for _, m := range members {
		construct := m.construct
		if i := slices.IndexFunc(commands(), func(e entry) bool { return e.name == m.top }); m.top != "" && i >= 0 {
			construct = commands()[i].construct
		}
		if construct == nil {
			continue
		}
		if m.name == wanted || slices.Contains(m.aliases, wanted) {
			cmd.AddCommand(a.member(m, construct))
			return cmd
		}
		if wanted == "" || strings.HasPrefix(wanted, "-") {
			all = append(all, a.member(m, construct))
		}
	}
	cmd.AddCommand(all...)
	if all == nil {
		if c := refusing(wanted, "brig "+name); c != nil {
			cmd.AddCommand(c)
		}
	}
	return cmd
}

// member constructs a command of a group, under its name there.
func (a *app) member(m member, construct func(*app) *cobra.Command) *cobra.Command {
	cmd := a.make(entry{m.name, construct})
	_, rest, _ := strings.Cut(cmd.Use, " ")
	cmd.Use, cmd.Aliases = strings.TrimSpace(m.name+" "+rest), m.aliases
	if m.top != "" {
		cmd.Annotations = map[string]string{verbAnnotation: m.top}
	}
	return cmd
}
