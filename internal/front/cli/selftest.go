package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) selftest() *cobra.Command {
	return a.group("selftest", "Try on this machine whether Brig keeps what it promises", "  brig selftest escape", []member{
		{name: "escape", construct: (*app).selftestEscape},
	})
}

func (a *app) selftestEscape() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "escape [OPTIONS]",
		Short: "Try to get out of a container, at each level of isolation that can be used here",
		Long: "Try to get out of a container, at each level of isolation that can be used here, or at that of --isolation. Each attempt is a real one, which does no\n" +
			"harm where it succeeds. The options are those of `brig create` that are about what a container may do: they say which one is to be tried. The exit code is 1 if anything does not\n" +
			"hold that should at that level: doc/isolation.md says what should.",
		Example:           "  brig selftest escape\n  brig selftest escape --isolation container --cap-add SYS_ADMIN\n  brig selftest escape --format json",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := a.addWallFlags(cmd)
	f := cmd.Flags()
	var format string
	f.StringVar(&format, "format", "", "Format output: 'json'")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if format != "" && format != "json" {
			return invalid(cmd, fmt.Errorf("invalid format %q: use json", format))
		}
		levels, err := a.levelsToTry(cmd)
		if err != nil {
			return err
		}
		var report []api.Probe
		for _, level := range levels {
			if level != "" {
				if err := f.Set("isolation", level); err != nil {
					return invalid(cmd, err)
				}
			}
			var some []api.Probe
			spec, err := o.finish(f, []string{api.ToolsImage})
			if err == nil {
				some, err = a.engine().TryEscapes(cmd.Context(), spec, a.streams)
			}
			if kind := api.KindOf(err); len(levels) > 1 && (kind == api.Unsupported || kind == api.InvalidArgument) { // of the options, with this level
				fmt.Fprintf(a.streams.Stderr, "WARNING: level %s was not tried: %v\n", level, err)
				continue
			}
			if err != nil {
				return runError(cmd, err)
			}
			report = append(report, some...)
		}
		if len(report) == 0 {
			return errors.New("nothing was tried")
		}
		return a.tellEscapes(report, format)
	}
	return cmd
}

// levelsToTry is that of the flag, as it stands, or all.
func (a *app) levelsToTry(cmd *cobra.Command) ([]string, error) {
	if cmd.Flags().Changed("isolation") {
		return []string{""}, nil
	}
	info, err := a.engine().Info(cmd.Context())
	if err != nil {
		return nil, err
	}
	var levels []string
	for _, l := range info.Isolation {
		if !l.Available {
			continue
		}
		levels = append(levels, string(l.Level))
		if l.Level == api.IsolationContainer {
			levels = append(levels, string(isolationUserNS))
		}
	}
	if len(levels) == 0 {
		return nil, errors.New("no level of isolation can be used here: `brig info` says why")
	}
	return levels, nil
}

func (a *app) tellEscapes(report []api.Probe, format string) error {
	failed := 0
	for i := range report {
		if report[i].Failed() {
			failed++
		}
	}
	if format == "json" {
		if err := printLines(a.streams.Stdout, report); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(a.streams.Stdout, 10, 1, 3, ' ', 0)
		fmt.Fprintln(w, "LEVEL\tPROBE\tEXPECTED\tFOUND\tWHAT\tHOW")
		for i := range report {
			p := &report[i]
			found := p.Found
			if p.Failed() {
				found = "OPEN"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Level, p.Name, p.Expected, found, p.What, p.How)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if failed > 0 {
		fmt.Fprintf(a.streams.Stderr, "brig: %d of %d attempts got out where the level should hold\n", failed, len(report))
		return &exitError{code: codeFailed}
	}
	return nil
}

// addWallFlags declares those flags of a container's that are about what stands between it and the host.
func (a *app) addWallFlags(cmd *cobra.Command) *specFlags {
	o := &specFlags{app: a}
	s, f := &o.spec, cmd.Flags()
	o.boundaryFlags(s, f)
	namespaceFlags(&s.Namespaces, f)
	f.StringVarP(&s.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	list(f, "volume", "v", "Bind mount a volume", appendTo(&o.volumes, a.parseVolume))
	list(f, "mount", "", "Attach a filesystem mount to the container", appendTo(&o.mounts, parseMount))
	list(f, "tmpfs", "", "Mount a tmpfs directory", appendTo(&o.tmpfs, parseTmpfs))
	o.networks.declare(f)
	return o
}
