package cli

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
	"brig/internal/image/ref"
)

func (a *app) pull() *cobra.Command {
	r := api.TransferRequest{Op: "pull", NoStatus: true}
	verify := true
	cmd := &cobra.Command{
		Use:               "pull [OPTIONS] NAME[:TAG|@DIGEST] [NAME...]",
		Short:             "Download images from a registry",
		Example:           "  brig pull debian:12\n  brig pull --platform linux/arm64 registry.example.com/team/app\n  brig pull --all-tags registry.example.com/team/app",
		Args:              minArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Insecure = !verify
			for _, name := range args {
				r.Refs = []string{name}
				if err := a.pullOne(cmd, r); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&r.AllTags, "all-tags", "a", false, "Download all tagged images in the repository")
	parsed(f, "platform", "", "string", "Set platform if the image has several", assign(&r.Platform, parsePlatform))
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress verbose output")
	registryFlags(f, &r)
	f.BoolVar(&verify, "tls-verify", true, "Require HTTPS and a valid certificate of the registry")
	return cmd
}

// pullOne pulls what one word of the command line means, and prints docker's last lines.
func (a *app) pullOne(cmd *cobra.Command, r api.TransferRequest) error {
	if r.AllTags {
		name, err := ref.Parse(r.Refs[0])
		if err != nil {
			return err
		}
		if hasTag(r.Refs[0]) || name.Digest != "" {
			return errors.New("tag can't be used with --all-tags/-a")
		}
	}
	reply, err := a.transfer(cmd, r)
	if err != nil {
		return err
	}
	for i := range reply.Images {
		img := &reply.Images[i]
		if !r.Quiet && img.Target.Digest != "" {
			a.printf("Digest: %s\n", img.Target.Digest)
		}
		if i < len(reply.Images)-1 {
			continue
		}
		name := img.Name
		if n, err := ref.Parse(name); err == nil && r.AllTags {
			name = n.Name()
		}
		if !r.Quiet {
			a.printPulled(name, reply.Fresh)
		}
		a.printf("%s\n", name)
	}
	return nil
}

// registryFlags are podman's for every command that speaks with a registry.
func registryFlags(f *pflag.FlagSet, r *api.TransferRequest) {
	f.StringVar(&r.AuthFile, "authfile", "", "Credentials are in this file (default docker's and podman's; env REGISTRY_AUTH_FILE)")
	f.StringVar(&r.CertDir, "cert-dir", "", "Folder of certificates for the registry: *.crt, *.cert and *.key")
}

// printPulled says what a pull did.
func (a *app) printPulled(name string, fresh bool) {
	if fresh {
		a.printf("Status: Downloaded newer image for %s\n", familiar(name))
		return
	}
	a.printf("Status: Image is up to date for %s\n", familiar(name))
}

// transfer has the engine move images; a failure that comes in the reply becomes an error of its kind.
func (a *app) transfer(cmd *cobra.Command, r api.TransferRequest) (api.TransferReply, error) {
	reply, err := a.engine().Transfer(cmd.Context(), r, a.quietly(r.Quiet))
	if err == nil && reply.Error != "" {
		err = api.Errorf(reply.Kind, "%s", reply.Error)
	}
	return reply, err
}
