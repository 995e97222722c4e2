package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) commit() *cobra.Command {
	var o api.CommitOptions
	pause, quiet, idFile := true, false, ""
	cmd := &cobra.Command{
		Use:               "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short:             "Create a new image from a container's changes",
		Example:           "  brig commit web web:patched\n  brig commit -m 'with curl' -c 'CMD [\"bash\"]' -c 'ENV DEBUG=1' web web:debug",
		Args:              oneOrTwoArgs,
		ValidArgsFunction: a.completeContainer(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				o.Name = args[1]
			}
			o.NoPause = !pause
			img, err := a.engine().Commit(cmd.Context(), args[0], o, a.quietly(quiet))
			if err != nil {
				return err
			}
			if idFile != "" {
				if err := os.WriteFile(idFile, []byte(img.ID), 0o644); err != nil {
					return fmt.Errorf("image ID file: %w", err)
				}
			}
			a.printf("%s\n", img.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	list(f, "change", "c", "Apply Dockerfile instruction to the created image", appendTo(&o.Changes, plain))
	f.StringVar(&idFile, "iidfile", "", "Write the image ID to the file")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress progress")
	f.StringVarP(&o.Message, "message", "m", "", "Commit message")
	f.BoolVarP(&pause, "pause", "p", true, "Pause container during commit")
	return cmd
}
