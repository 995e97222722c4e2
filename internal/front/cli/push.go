package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
	"brig/internal/image/ref"
)

func (a *app) push() *cobra.Command {
	r := api.TransferRequest{Op: "push"}
	verify := true
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG] [ssh://[USER@]HOST[:PORT][/PATH/TO/BRIG]]",
		Short: "Upload an image to a registry, or to another machine's Brig",
		Long: "Upload an image to the registry that its name tells. Layers that the registry has are not sent, and an upload that breaks off\n" +
			"goes on where it stopped.\n\n" +
			"With ssh://HOST the image goes to the Brig of another machine instead, by the system's ssh: no registry is needed, and only\n" +
			"what that machine lacks is sent. The image, which may be named by its ID too, and the machine may stand in either order.",
		Example:           "  brig push registry.example.com/team/app:1\n  brig push -a registry.example.com/team/app\n  brig push app:1 ssh://root@build.example.com",
		Args:              oneOrTwoArgs,
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Insecure = !verify
			name, to, err := pushArgs(args)
			if err != nil {
				return err
			}
			r.Refs, r.To = []string{name}, to
			if to != "" {
				for _, name := range []string{"all-tags", "tls-verify", "authfile", "cert-dir"} {
					if cmd.Flags().Changed(name) {
						return fmt.Errorf("--%s is for a push to a registry: it cannot be used with ssh://", name)
					}
				}
			} else if err := a.pushTag(&r); err != nil {
				return err
			}
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			a.printPushed(name, &r, reply.Sent)
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&r.AllTags, "all-tags", "a", false, "Push all tags of an image to the repository")
	parsed(f, "platform", "", "string", "Push the manifest of the given platform alone, without the index", assign(&r.Platform, parsePlatform))
	f.BoolVarP(&r.Quiet, "quiet", "q", false, "Suppress verbose output")
	registryFlags(f, &r)
	f.BoolVar(&verify, "tls-verify", true, "Require HTTPS and a valid certificate of the registry")
	return cmd
}

// pushArgs tells the image from the machine.
func pushArgs(args []string) (name, to string, err error) {
	for _, arg := range args {
		switch {
		case strings.HasPrefix(arg, "ssh://") && to == "":
			to = arg
		case name == "" && arg != "":
			name = arg
		default:
			return "", "", errors.New("an image is pushed to one place: NAME, or NAME ssh://HOST; \"brig copy\" knows other places")
		}
	}
	if name == "" {
		return "", "", errors.New("the image to push is missing: brig push NAME ssh://HOST")
	}
	return name, to, nil
}

// hasTag reports whether a reference has a tag, or a digest, of the user's own.
func hasTag(s string) bool { return strings.Contains(s[strings.LastIndexByte(s, '/')+1:], ":") }

// pushTag applies docker's rules for the tag.
func (a *app) pushTag(r *api.TransferRequest) error {
	name, err := ref.Parse(r.Refs[0])
	if err != nil {
		return err
	}
	switch {
	case r.AllTags && (hasTag(r.Refs[0]) || name.Digest != ""):
		return errors.New("tag can't be used with --all-tags/-a")
	case !r.AllTags && !hasTag(r.Refs[0]) && name.Digest == "" && !r.Quiet:
		a.printf("Using default tag: %s\n", name.Tag)
	}
	return nil
}

// printPushed says what was pushed: docker's last line for each tag, or the name alone.
func (a *app) printPushed(name string, r *api.TransferRequest, all []api.Sent) {
	if r.Quiet {
		if n, err := ref.Parse(name); err == nil && !r.AllTags {
			name = n.String()
		} else if err == nil {
			name = n.Name()
		}
		a.printf("%s\n", name)
		return
	}
	for _, s := range all {
		label := s.Name
		if label == "" {
			label = name
		}
		a.printf("%s: digest: %s size: %d\n", label, s.Digest, s.Size)
	}
}

// receive is the other end of a push over ssh.
func (a *app) receive() *cobra.Command {
	return &cobra.Command{
		Use:     "receive",
		Short:   "Take in an image from another machine",
		Long:    "Take in an image from brig push on another machine, which executes this over ssh and speaks with it on standard input and output.",
		Example: "  ssh host brig receive",
		Hidden:  true,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := a.transfer(cmd, api.TransferRequest{Op: "receive"})
			return err
		},
	}
}
