package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) copy() *cobra.Command {
	r := api.TransferRequest{Op: "copy"}
	srcVerify, destVerify := true, true
	cmd := &cobra.Command{
		Use:   "copy [OPTIONS] SOURCE DESTINATION",
		Short: "Copy an image between registries, archives and the store",
		Long: "Copy an image from one place to another. A place is written as with skopeo:\n\n" +
			"  docker://REFERENCE               an image in a registry\n" +
			"  docker-archive:FILE[:REFERENCE]  an archive of docker save\n" +
			"  oci-archive:FILE[:REFERENCE]     an OCI layout in a tar archive\n" +
			"  oci:FOLDER[:REFERENCE]           an OCI layout in a folder\n" +
			"  brig:REFERENCE                   an image of this Brig\n\n" +
			"Manifests and layers are copied byte by byte, so digests stay. Unless a place is brig:, nothing is kept on this machine. Of an\n" +
			"image for several platforms one is copied, this machine's or that of --platform; --all copies all of it.",
		Example: "  brig copy docker://debian:12 docker://registry.example.com/debian:12\n" +
			"  brig copy --all --referrers docker://a.example.com/app:1 docker://b.example.com/app:1\n" +
			"  brig copy brig:app:1 oci-archive:app.tar",
		Args:              exactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Refs, r.Insecure, r.DestInsecure = args, !srcVerify, !destVerify
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			for _, s := range reply.Sent {
				if r.Quiet {
					a.printf("%s\n", s.Digest)
				} else {
					a.printf("Digest: %s\n", s.Digest)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&r.All, "all", "a", false, "Copy all platforms of the image, and what else its index holds")
	parsed(f, "platform", "", "string", "Copy the given platform", assign(&r.Platform, parsePlatform))
	f.BoolVar(&r.Referrers, "referrers", false, "Also copy what refers to the image: signatures, attestations, SBOMs")
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress progress; print the digest only")
	registryFlags(f, &r)
	f.BoolVar(&srcVerify, "src-tls-verify", true, "Require HTTPS and a valid certificate of the source's registry")
	f.BoolVar(&destVerify, "dest-tls-verify", true, "Require HTTPS and a valid certificate of the destination's registry")
	return cmd
}
