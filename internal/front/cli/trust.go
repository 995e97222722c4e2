package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"brig/api"
)

// imageTrust is podman image trust.
func (a *app) imageTrust() *cobra.Command {
	c := &cobra.Command{
		Use:     "trust COMMAND",
		Short:   "Look into the signature policy",
		Example: "  brig image trust show\n  brig --policy ./policy.json image trust show registry.example.com/team",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.imageTrustShow(), refusing("set", "brig image trust"))
	return c
}

func (a *app) imageTrustShow() *cobra.Command {
	var asJSON, noHeading, raw bool
	c := &cobra.Command{
		Use:               "show [OPTIONS] [REGISTRY]",
		Short:             "Show the signature policy, or what of it applies to a registry, a repository or an image",
		Example:           "  brig image trust show --json\n  brig image trust show docker.io/library",
		Args:              maxArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r := api.TransferRequest{Op: "trust", Refs: args}
			switch {
			case asJSON && raw:
				return errors.New("conflicting options: --json and --raw")
			case asJSON:
				r.Format = "json"
			case raw:
				r.Format = "raw"
			case noHeading:
				r.Format = "noheading"
			}
			_, err := a.transfer(cmd, r)
			return err
		},
	}
	f := c.Flags()
	f.BoolVarP(&asJSON, "json", "j", false, "Output as JSON")
	f.BoolVarP(&noHeading, "noheading", "n", false, "Do not print column headings")
	f.BoolVar(&raw, "raw", false, "Output the policy file as it is")
	return c
}
