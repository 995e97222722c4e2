package engine

import (
	"context"
	"errors"

	"brig/api"
	"brig/internal/base/policyfile"
)

// WithPolicy lets the signature policy in file count, in the place of the user's and the system's. The empty name changes nothing.
func (e *Engine) WithPolicy(file string) *Engine {
	if file != "" {
		e.policy = absolute(file)
	}
	return e
}

// trusted holds an image of the store against the signature policy before it becomes a container. Where nothing changed since it was
// accepted, files are looked at and no more; else brig-image decides, by the signatures that are kept with the image, and the record
// that it returns is the one to use.
func (e *Engine) trusted(ctx context.Context, img api.Image, out api.Streams) (api.Image, error) {
	policy, err := policyfile.Find(e.policy)
	if err != nil {
		return img, api.Errorf(api.InvalidArgument, "%w", err)
	}
	if policy == "" || unchanged(policy, img.Trust.Files) {
		return img, nil
	}
	key := img.Name
	if key == "" {
		key = img.ID
	}
	rep, err := e.Transfer(ctx, api.TransferRequest{Op: "verify", Refs: []string{key}}, api.Streams{Stderr: out.Stderr})
	if err != nil {
		return img, err
	}
	if len(rep.Images) == 0 {
		return img, api.Errorf(api.NotFound, "image %s: the check of its signatures told nothing", key)
	}
	return rep.Images[0], nil
}

// stillTrusted holds the image of a container that is to be started again against the policy, as a run does. One whose image is not in the store any more, which
// only force removes, starts: nobody could say where it came from.
func (e *Engine) stillTrusted(ctx context.Context, c *api.Container) error {
	if c.Spec.Infra || c.Spec.Rootfs.Dir != "" { // it has no image
		return nil
	}
	policy, err := policyfile.Find(e.policy)
	if err == nil && policy == "" {
		return nil
	}
	img, ierr := e.InspectImage(ctx, c.ImageName)
	if ierr != nil || img.ID != c.Image { // the name is another's by now
		img, ierr = e.InspectImage(ctx, c.Image)
	}
	if errors.Is(ierr, api.NotFound) && err == nil {
		return nil
	}
	if err = errors.Join(err, ierr); err == nil {
		_, err = e.trusted(ctx, img, api.Streams{})
	}
	if err != nil {
		return api.Errorf(api.KindOf(err), "container %s: %w", c.Name, err)
	}
	return nil
}

// unchanged reports whether a decision by this policy rests on files that are as they were.
func unchanged(policy string, files []api.TrustFile) bool {
	if len(files) == 0 || files[0].Path != policy {
		return false
	}
	for _, f := range files {
		if s, err := policyfile.Stamp(f.Path); err != nil || s != f.Stamp {
			return false
		}
	}
	return true
}
