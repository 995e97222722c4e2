package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) load() *cobra.Command {
	r := api.TransferRequest{Op: "load"}
	cmd := &cobra.Command{
		Use:               "load [OPTIONS]",
		Short:             "Load an image from a tar archive or STDIN",
		Long:              "Load images from an archive that docker save, skopeo or another tool made, from an OCI image layout, or from standard input.",
		Example:           "  brig load -i app.tar\n  zcat app.tar.gz | brig load",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.File == "" && a.streams.Terminal != nil {
				return errors.New("requested load from stdin, but stdin is a terminal: use -i FILE or a redirection")
			}
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			for _, img := range reply.Images {
				if img.Name == "" {
					a.printf("Loaded image ID: %s\n", img.ID)
				} else {
					a.printf("Loaded image: %s\n", familiar(img.Name))
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.File, "input", "i", "", "Read from tar archive file or layout folder, instead of STDIN")
	parsed(f, "platform", "", "string", "Load only the given platform", assign(&r.Platform, parsePlatform))
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress the load output")
	return cmd
}
