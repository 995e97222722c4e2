package transfer

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/base"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
)

// maxMountFrom is how many other repositories a push asks the right for to mount blobs from.
const maxMountFrom = 8

// Push uploads an image to its registry, or all tags of a repository, or sends one to another machine.
func (t *Transfer) Push(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	if len(r.Refs) != 1 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "push: %d references, want one", len(r.Refs))
	}
	platform, err := image.ParsePlatform(r.Platform)
	if err != nil {
		return api.TransferReply{}, err
	}
	if r.To != "" {
		return t.sendTo(ctx, r, platform)
	}
	name, images, err := t.pushed(r)
	if err != nil {
		return api.TransferReply{}, err
	}
	all, err := t.stores.Meta.Images()
	if err != nil {
		return api.TransferReply{}, err
	}
	from, mount := origins(name, images, all)
	show := newOutDisplay(t.Stderr, r.Quiet, "Pushing", "Pushed", "Layer already exists")
	show.say("The push refers to repository [%s]", name.Name())
	repo, err := remote.Open(ctx, name, remote.Options{Insecure: r.Insecure, AuthFile: r.AuthFile, CertDir: r.CertDir, Warn: show.warn, Actions: []string{"pull", "push"}, Mount: mount})
	if err != nil {
		return api.TransferReply{}, err
	}
	src := &shelf{t}
	c := newCopier(src, &registrySink{repo: repo, from: func(d digest.Digest) []string { return from[d] }}, show)
	var reply api.TransferReply
	for _, img := range images {
		var one api.Sent
		if one, err = t.pushOne(ctx, c, src, img, platform); err != nil {
			break
		}
		reply.Sent = append(reply.Sent, one)
	}
	show.finish()
	if err != nil {
		if !strings.Contains(err.Error(), name.FamiliarName()) { // a registry's answer names it
			err = wrap(name, err)
		}
		return api.TransferReply{}, err
	}
	return reply, nil
}

// pushOne pushes the image of one tag: as its name has it where the store has all of that, else the one manifest that the store has, with
// a warning, as docker does.
func (t *Transfer) pushOne(ctx context.Context, c *copier, src *shelf, img api.Image, p image.Platform) (api.Sent, error) {
	target := img.Target
	if p != (image.Platform{}) {
		if have, err := image.ParsePlatform(img.Platform); err != nil || !have.Matches(p) {
			return api.Sent{}, api.Errorf(api.NotFound, "the store has the image for %s, not for %s: pull it with --platform first", img.Platform, p)
		}
		target = img.Manifest
	} else if target.Digest != img.Manifest.Digest && !src.whole(ctx, target) {
		target = img.Manifest
		c.show.say("Not all multiplatform-content is present and only the available single-platform image (%s) is pushed\n%s -> %s", img.Platform, img.Target.Digest, target.Digest)
	}
	name, err := ref.Parse(img.Name)
	if err != nil {
		return api.Sent{}, err
	}
	if err := c.copy(ctx, target, name.Tag); err != nil {
		return api.Sent{}, err
	}
	return sent(name.Tag, target), nil
}

// pushed finds the images that the user means, and the name that their registry and repository is in.
func (t *Transfer) pushed(r api.TransferRequest) (ref.Ref, []api.Image, error) {
	name, err := ref.Parse(r.Refs[0])
	switch {
	case err != nil:
		return name, nil, err
	case name.Digest != "":
		return name, nil, api.Errorf(api.InvalidArgument, "cannot push a digest reference: %s", name.Familiar())
	case base.Is(name):
		return name, nil, api.Errorf(api.InvalidArgument, "%s comes with Brig and has no registry: give it a name of yours with \"brig tag\"", name.Familiar())
	case !r.AllTags:
		img, err := t.stores.Meta.Image(name.String())
		if errors.Is(err, api.NotFound) {
			err = api.Errorf(api.NotFound, "an image does not exist locally with the tag: %s", name.FamiliarName())
		}
		return name, []api.Image{img}, err
	}
	all, err := t.stores.Meta.Images()
	if err != nil {
		return name, nil, err
	}
	var images []api.Image
	for _, img := range all {
		if other, err := ref.Parse(img.Name); err == nil && img.Name != "" && other.Name() == name.Name() && other.Tag != "" {
			images = append(images, img)
		}
	}
	if len(images) == 0 {
		return name, nil, api.Errorf(api.NotFound, "an image does not exist locally with the tag: %s", name.FamiliarName())
	}
	return name, images, nil
}

// origins tells for each layer which repositories of the same registry may have it: those that images with the same layer came from.
func origins(to ref.Ref, images, all []api.Image) (from map[digest.Digest][]string, mount []string) {
	from = map[digest.Digest][]string{}
	for _, img := range images {
		for _, l := range img.Layers {
			from[l.Blob.Digest] = nil
		}
	}
	for _, img := range all {
		name, err := ref.Parse(img.Name)
		if err != nil || name.Domain != to.Domain || name.Path == to.Path || base.Is(name) {
			continue
		}
		for _, l := range img.Layers {
			paths, wanted := from[l.Blob.Digest]
			if !wanted || slices.Contains(paths, name.Path) {
				continue
			}
			if !slices.Contains(mount, name.Path) {
				if len(mount) == maxMountFrom {
					continue
				}
				mount = append(mount, name.Path)
			}
			from[l.Blob.Digest] = append(paths, name.Path)
		}
	}
	return from, mount
}
