package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) volumeMount() *cobra.Command {
	return &cobra.Command{
		Use:               "mount VOLUME [VOLUME...]",
		Short:             "Have volumes' files be at their places on the host, and print these",
		Example:           "  ls $(brig volume mount data)",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				v, err := a.engine().MountVolume(cmd.Context(), name)
				return v.Mountpoint, err
			})
		},
	}
}

func (a *app) volumeUnmount() *cobra.Command {
	return &cobra.Command{
		Use:               "unmount VOLUME [VOLUME...]",
		Short:             "Unmount volumes that have a size, until they are used next",
		Example:           "  brig volume unmount small",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				v, err := a.engine().UnmountVolume(cmd.Context(), name)
				return v.Name, err
			})
		},
	}
}

// volumeReload is podman's: it asks plugins for their volumes, and there are none.
func (a *app) volumeReload() *cobra.Command {
	return &cobra.Command{
		Use:     "reload",
		Short:   "Refused: volumes are read anew by each command, and there are no plugins to ask",
		Example: "  brig volume ls",
		Args:    maxArgs(0),
		RunE: func(*cobra.Command, []string) error {
			return api.Errorf(api.Unsupported, "volume reload: there are no volume plugins to ask: `brig volume ls` lists what there is")
		},
	}
}

func (a *app) volumeUpdate() *cobra.Command {
	size := ""
	cmd := &cobra.Command{
		Use:               "update --opt size=BYTES VOLUME",
		Short:             "Make a volume that has a size hold more, while it is in use too",
		Example:           "  brig volume update --opt size=2g small",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			if size == "" {
				return errors.New("say what is to change: --opt size=BYTES")
			}
			v, err := a.engine().GrowVolume(cmd.Context(), args[0], size)
			if err != nil {
				return err
			}
			a.printf("%s\n", v.Name)
			return nil
		},
	}
	list(cmd.Flags(), "opt", "o", "Set driver specific options: size=BYTES", func(o string) error {
		pairsOf := map[string]string{}
		if err := pairs("opt", &pairsOf)(o); err != nil {
			return err
		}
		if size = pairsOf["size"]; size == "" {
			return fmt.Errorf("option %q cannot be changed: use size=BYTES", o)
		}
		return nil
	})
	return cmd
}
