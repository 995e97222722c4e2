package cli

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// own are the flags that docker does not have.
func own(command string) []string {
	return map[string][]string{
		"pull":   {"--authfile", "--cert-dir", "--tls-verify"}, // podman's
		"push":   {"--authfile", "--cert-dir", "--tls-verify"},
		"login":  {"--authfile", "--cert-dir", "--tls-verify"},
		"logout": {"--authfile"},
		"search": {"--authfile", "--cert-dir", "--tls-verify"},
		"save":   {"--format"},
		"diff":   {"--latest", "--format"}, // from here on podman's too
		"logs":   {"--names", "--latest"},
		"kill":   {"--all", "--latest", "--cidfile"},
		"pause":  {"--all", "--latest", "--filter", "--cidfile"}, "unpause": {"--all", "--latest", "--filter", "--cidfile"},
		"port":    {"--all", "--latest"},
		"restart": {"--all", "--running", "--latest", "--filter", "--cidfile"},
		"rm":      {"--time", "--all", "--latest", "--filter", "--cidfile", "--ignore"},
		"start":   {"--all", "--latest", "--filter"},
		"stop":    {"--all", "--latest", "--filter", "--cidfile", "--ignore"},
		"events":  {"--stream"},
		"stats":   {"--interval", "--no-reset", "--latest"},
		"top":     {"--latest"}, "update": {"--latest"},
		"wait":   {"--condition", "--interval", "--latest", "--ignore"},
		"run":    {"--health-on-failure", "--secret", "--uidmap", "--gidmap", "--subuidname", "--subgidname"},
		"create": {"--health-on-failure", "--secret", "--uidmap", "--gidmap", "--subuidname", "--subgidname"},
	}[command]
}

// spelling is how a flag is declared: "-e, --env list" without the words about it.
func spelling(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "-" + f.Shorthand + ", --" + f.Name
	}
	return "--" + f.Name
}

// dockerFlags reads the flags that the installed docker lists in its help, each as spelling writes it, with whether it takes a value.
func dockerFlags(t *testing.T, command string) map[string]bool {
	t.Helper()
	docker, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("no docker command to compare with: install docker.io")
	}
	out, err := exec.Command(docker, command, "--help").Output()
	if err != nil {
		t.Fatalf("docker %s --help: %v", command, err)
	}
	flags := map[string]bool{}
	for _, line := range strings.Split(string(out), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[0], "-") {
			continue
		}
		name, rest := words[0], words[1:]
		if strings.HasSuffix(name, ",") {
			name, rest = name+" "+words[1], words[2:]
		}
		head, _, _ := strings.Cut(strings.TrimSpace(line[strings.Index(line, words[0])+len(name):])+"   ", "   ")
		flags[name] = len(rest) > 0 && head == rest[0] // a type stands alone before the words
	}
	return flags
}

// TestSpellings holds every flag of every command against docker's: the same name, shorthand and need of a value.
func TestSpellings(t *testing.T) {
	for _, cmd := range Tree().Commands() {
		if slices.Contains([]string{"completion", "help", "reap", "receive", "copy", "boot", "why"}, cmd.Name()) {
			continue
		}
		docker := dockerFlags(t, cmd.Name())
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" || slices.Contains(own(cmd.Name()), "--"+f.Name) {
				return
			}
			takes, known := docker[spelling(f)]
			if !known {
				t.Errorf("brig %s has %s, docker has not", cmd.Name(), spelling(f))
			}
			if known && takes != (f.Value.Type() != "bool") {
				t.Errorf("brig %s %s: docker's takes a value: %t", cmd.Name(), spelling(f), takes)
			}
		})
	}
}

// TestFlagList pins the flags of run, so that none is lost unnoticed.
func TestFlagList(t *testing.T) {
	want := strings.Fields("add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cidfile cpu-period cpu-quota cpu-shares cpus cpuset-cpus cpuset-mems detach detach-keys " +
		"device device-read-bps device-read-iops device-write-bps device-write-iops dns entrypoint env env-file gidmap health-cmd health-interval health-on-failure health-retries health-start-interval health-start-period health-timeout " +
		"help hostname init interactive isolation label label-file log-driver log-opt memory memory-reservation memory-swap memory-swappiness mount name net " +
		"network no-healthcheck oom-kill-disable oom-score-adj pids-limit platform privileged publish pull quiet read-only restart rm secret security-opt shm-size sig-proxy " +
		"stop-signal stop-timeout storage-opt subgidname subuidname sysctl tmpfs tty uidmap ulimit user userns volume workdir")
	var got []string
	run, _, err := Tree().Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	run.Flags().VisitAll(func(f *pflag.Flag) { got = append(got, f.Name) })
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("run has\n%s\nwant\n%s", got, want)
	}
}

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
