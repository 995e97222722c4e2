package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

func (a *app) pull() *cobra.Command {
	r := api.TransferRequest{Op: "pull", NoStatus: true}
	verify := true
	cmd := &cobra.Command{
		Use:               "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short:             "Download an image from a registry",
		Example:           "  brig pull debian:12\n  brig pull --platform linux/arm64 registry.example.com/team/app",
		Args:              exactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Refs, r.Insecure = args, !verify
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			for i := range reply.Images {
				if !r.Quiet {
					a.printPulled(&reply.Images[i], reply.Fresh)
				}
				a.printf("%s\n", reply.Images[i].Name)
			}
			return nil
		},
	}
	f := cmd.Flags()
	parsed(f, "platform", "", "string", "Set platform if the image has several", assign(&r.Platform, parsePlatform))
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress verbose output")
	registryFlags(f, &r)
	f.BoolVar(&verify, "tls-verify", true, "Require HTTPS and a valid certificate of the registry")
	return cmd
}

// registryFlags are podman's for every command that speaks with a registry.
func registryFlags(f *pflag.FlagSet, r *api.TransferRequest) {
	f.StringVar(&r.AuthFile, "authfile", "", "Credentials are in this file (default docker's and podman's; env REGISTRY_AUTH_FILE)")
	f.StringVar(&r.CertDir, "cert-dir", "", "Folder of certificates for the registry: *.crt, *.cert and *.key")
}

// printPulled says what a pull did.
func (a *app) printPulled(img *api.Image, fresh bool) {
	if img.Target.Digest != "" {
		a.printf("Digest: %s\n", img.Target.Digest)
	}
	if fresh {
		a.printf("Status: Downloaded newer image for %s\n", familiar(img.Name))
		return
	}
	a.printf("Status: Image is up to date for %s\n", familiar(img.Name))
}

// transfer has the engine move images; a failure that comes in the reply becomes an error of its kind.
func (a *app) transfer(cmd *cobra.Command, r api.TransferRequest) (api.TransferReply, error) {
	reply, err := a.engine().Transfer(cmd.Context(), r, a.quietly(r.Quiet))
	if err == nil && reply.Error != "" {
		err = api.Errorf(reply.Kind, "%s", reply.Error)
	}
	return reply, err
}
