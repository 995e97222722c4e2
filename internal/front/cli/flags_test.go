package cli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestHelp(t *testing.T) {
	for _, cmd := range append(Tree().Commands(), Tree()) {
		if cmd.Name() == "completion" || cmd.Name() == "help" { // cobra's
			continue
		}
		if cmd.Example == "" || cmd.Short == "" || !strings.Contains(cmd.Example, "brig "+strings.TrimPrefix(cmd.Name(), "brig")) {
			t.Errorf("%s lacks an example of itself, or a line about it", cmd.Name())
		}
		args := []string{cmd.Name(), "--help"}
		if !cmd.HasParent() && cmd.Name() == "brig" {
			args = args[1:]
		}
		r := brig(t, nil, args...)
		if r.code != 0 || !strings.HasPrefix(r.out, "Usage:  brig ") || !strings.Contains(r.out, "\nExamples:\n  ") || !strings.Contains(r.out, "--help") {
			t.Errorf("%s --help: code %d\n%s%s", cmd.Name(), r.code, r.out, r.errOut)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", cmd.Name(), f.Name)
			}
		})
	}
	if r := brig(t, nil, "help", "run"); !strings.Contains(r.out, "--publish list") {
		t.Error(r.out)
	}
	if r := brig(t, nil); !strings.Contains(r.out, "\nCommands:\n") || strings.Contains(r.out, "reap") {
		t.Error(r.out)
	}
}

// TestExamplesParse runs the flags of every example through the command that it is about.
func TestExamplesParse(t *testing.T) {
	for _, cmd := range Tree().Commands() {
		for _, line := range strings.Split(cmd.Example, "\n") {
			_, line, found := strings.Cut(line, "brig "+cmd.Name())
			if !found || cmd.Name() == "completion" || strings.Contains(line, "$(") {
				continue
			}
			line, _, _ = strings.Cut(line, "|")
			line, _, _ = strings.Cut(line, " >")
			line = strings.NewReplacer("\"$PWD\"", "/src", "'with curl'", "text", `'CMD ["bash"]'`, "CMD", "'ENV DEBUG=1'", "ENV", `'CMD ["/bin/sh"]'`, "CMD",
				"'table {{.Names}}\\t{{.Status}}'", "{{.ID}}", "'table {{.Repository}}:{{.Tag}}\\t{{.Size}}'", "{{.ID}}").Replace(line)
			line = strings.ReplaceAll(line, "'{{.State.Status}} {{.NetworkSettings.IPAddress}}'", "{{.ID}}")
			cmd, args, err := cmd.Find(strings.Fields(line))
			if err != nil {
				t.Errorf("brig %s%s: %v", cmd.Name(), line, err)
			} else if err := cmd.ParseFlags(args); err != nil {
				t.Errorf("brig %s%s: %v", cmd.Name(), line, err)
			} else if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("brig %s%s: %v", cmd.Name(), line, err)
			}
		}
	}
}

// TestOneCommandMade holds the promise that a command line pays for its own command only.
func TestOneCommandMade(t *testing.T) {
	for line, want := range map[string]int{
		"run img": 1, "--root /x --debug run img": 1, "--state=/x ps": 1, "run --name ps img": 1,
		"help": len(commands()), "": len(commands()), "__complete run": len(commands()), "remove": len(commands()), "--root run": len(commands()),
	} {
		a := &app{}
		root := &cobra.Command{Use: "brig"}
		a.addCommands(root, strings.Fields(line))
		if got := len(root.Commands()); got != want {
			t.Errorf("%q: %d commands made, want %d", line, got, want)
		}
	}
}

// TestLean holds what the program must not link: each package costs start-up time, or belongs to the worker that moves images.
func TestLean(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, heavy := range []string{"net/http", "crypto/tls", "github.com/spf13/cobra/doc", "github.com/google/go-containerregistry", "html/template", "log/slog"} {
			if dep == heavy || strings.HasPrefix(dep, heavy+"/") {
				t.Errorf("the command line links %s", dep)
			}
		}
	}
}
