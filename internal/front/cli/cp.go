package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"brig/api"
)

func (a *app) cp() *cobra.Command {
	var archive, follow, quiet bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        brig cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Long: "Copy files/folders between a container and the local filesystem, or between two containers. With - as the source a tar is read from standard\n" +
			"input and unpacked into a folder of the container; with - as the destination the files are written as a tar to standard output. The container may\n" +
			"run or not. A folder is copied into a destination that is there, and becomes one that is not; a source that ends with /. is only what is in it.",
		Example:           "  brig cp notes.txt web:/srv\n  brig cp web:/var/log/. logs\n  brig cp web:/etc/hosts -",
		Args:              exactArgs(2),
		ValidArgsFunction: a.completeCopy,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := copyPlace(args[0]), copyPlace(args[1])
			switch {
			case from.Container == "" && to.Container == "":
				return errors.New("must specify at least one container source")
			case from.Container == "" && args[0] == "" || to.Container == "" && args[1] == "":
				return errors.New("destination path can not be empty")
			}
			if err := a.engine().CopyFiles(cmd.Context(), from, to, follow, archive, a.streams); err != nil {
				return err
			}
			if f, ok := a.streams.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !quiet && args[0] != "-" && args[1] != "-" {
				fmt.Fprintf(f, "Successfully copied %s to %s\n", args[0], args[1])
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

// copyPlace reads CONTAINER:PATH or a path of this machine: one that begins with a slash or a dot, or has no colon, is that.
func copyPlace(s string) api.CopyPlace {
	if filepath.IsAbs(s) || strings.HasPrefix(s, ".") {
		return api.CopyPlace{Path: s}
	}
	name, p, found := strings.Cut(s, ":")
	if !found {
		return api.CopyPlace{Path: s}
	}
	return api.CopyPlace{Container: name, Path: p}
}

// completeCopy offers containers, with the colon that follows, and files.
func (a *app) completeCopy(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _ := a.completeContainers(nil)(cmd, args, begun)
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}
