package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

// importImage is the command import, a word that Go keeps for itself.
func (a *app) importImage() *cobra.Command {
	r := api.TransferRequest{Op: "import"}
	cmd := &cobra.Command{
		Use:     "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
		Short:   "Import the contents from a tarball to create a filesystem image",
		Example: "  brig import rootfs.tar.gz base:1\n  tar -C rootfs -c . | brig import -c 'CMD [\"/bin/sh\"]' - base:2\n  brig import https://example.com/rootfs.tar.xz",
		Args:    oneOrTwoArgs,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return errors.New("the source is empty: name a file or a URL, or use - for standard input")
			}
			if r.File = args[0]; r.File == "-" {
				if a.streams.Terminal != nil {
					return errors.New("requested import from stdin, but stdin is a terminal: name a file or use a redirection")
				}
				r.File = ""
			}
			r.Refs = args[1:]
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			for _, img := range reply.Images {
				a.printf("%s\n", img.ID)
			}
			return nil
		},
	}
	f := cmd.Flags()
	list(f, "change", "c", "Apply Dockerfile instruction to the created image", appendTo(&r.Changes, plain))
	f.StringVarP(&r.Message, "message", "m", "", "Set commit message for imported image")
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress progress")
	parsed(f, "platform", "", "string", "Set platform if the image is for another than this machine's", assign(&r.Platform, parsePlatform))
	return cmd
}
