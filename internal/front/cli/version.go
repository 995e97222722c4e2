package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is Brig's version; a release sets it with -ldflags "-X brig/internal/front/cli.Version=…".
var Version = "devel"

// versionPart describes a program; the field names are docker's.
type versionPart struct {
	Version, GitCommit, GoVersion, Os, Arch, BuildTime string
}

// versionView is what version prints. There is no server: the same program stands for both.
type versionView struct {
	Client, Server versionPart
}

func (a *app) version() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "version [OPTIONS]",
		Short:             "Show the Brig version information",
		Example:           "  brig version\n  brig version --format '{{.Client.Version}}'",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			v := thisVersion()
			if format != "" {
				return printObject(a.streams.Stdout, format, versionView{Client: v, Server: v})
			}
			a.printf("Brig:\n")
			a.field("Version", v.Version)
			a.field("Go version", v.GoVersion)
			a.field("Git commit", v.GitCommit)
			a.field("Built", v.BuildTime)
			a.field("OS/Arch", v.Os+"/"+v.Arch)
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}

// thisVersion describes this program.
func thisVersion() versionPart {
	v := versionPart{Version: Version, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				v.GitCommit = s.Value
			case "vcs.time":
				v.BuildTime = s.Value
			}
		}
	}
	return v
}

// field prints one line of version, unless there is nothing to say.
func (a *app) field(name, val string) {
	if val != "" {
		a.printf(" %-12s %s\n", name+":", val)
	}
}
