package cli

import (
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"brig/api"
)

func (a *app) save() *cobra.Command {
	r := api.TransferRequest{Op: "save"}
	cmd := &cobra.Command{
		Use:               "save [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Example:           "  brig save -o app.tar app:1\n  brig save app:1 | gzip >app.tar.gz\n  brig save --format oci-dir -o layout app:1",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.File == "" && r.Format == "oci-dir" {
				return errors.New("a layout folder cannot be written to standard output: use -o DIR")
			}
			if r.File == "" && a.terminalOutput() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			r.Refs = args
			_, err := a.transfer(cmd, r)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.File, "output", "o", "", "Write to a file, instead of STDOUT")
	parsed(f, "format", "", "string", "Form of the archive: docker-archive, oci-archive or oci-dir (default docker-archive)", assign(&r.Format, parseArchive))
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress progress")
	parsed(f, "platform", "", "string", "Save only the given platform", assign(&r.Platform, parsePlatform))
	return cmd
}

func parseArchive(s string) (string, error) {
	switch s {
	case "docker-archive", "oci-archive", "oci-dir":
		return s, nil
	}
	return "", errors.New("use docker-archive, oci-archive or oci-dir")
}

// terminalOutput reports whether standard output is a terminal.
func (a *app) terminalOutput() bool {
	f, ok := a.streams.Stdout.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}
