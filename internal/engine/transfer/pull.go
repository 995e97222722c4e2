package transfer

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/base"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/image/remote/hosts"
	"brig/internal/image/trust"
	"brig/internal/store/garbage"
)

// Pull brings an image in from its registry; brig/base from this program.
func (t *Transfer) Pull(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	if len(r.Refs) != 1 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "pull: %d references, want one", len(r.Refs))
	}
	name, err := ref.Parse(r.Refs[0])
	if err != nil {
		return api.TransferReply{}, err
	}
	short := name.Familiar()
	platform, err := image.ParsePlatform(r.Platform)
	if err != nil {
		return api.TransferReply{}, err
	}
	show := newDisplay(t.Stderr, r.Quiet, true)
	if r.AllTags {
		reply, err := t.pullTags(ctx, r, name, platform, show)
		show.finish()
		return reply, err
	}
	var rec api.Image
	var fresh bool
	if base.Is(name) {
		rec, fresh, err = t.pullBase(ctx, name, platform, show)
	} else {
		name, rec, fresh, err = t.pullAny(ctx, r, platform, show)
		if err == nil && ref.Short(r.Refs[0]) && name.Familiar() != short {
			rec, err = t.noteShort(rec, short)
		}
	}
	show.finish()
	if err != nil {
		return api.TransferReply{}, err
	}
	switch {
	case r.NoStatus:
	case t.going != nil:
		show.say("Digest: %s", rec.Target.Digest)
		show.say("Status: Reading %s as it is needed", name.Familiar())
	case fresh:
		show.say("Digest: %s", rec.Target.Digest)
		show.say("Status: Downloaded newer image for %s", name.Familiar())
	default:
		show.say("Digest: %s", rec.Target.Digest)
		show.say("Status: Image is up to date for %s", name.Familiar())
	}
	fmt.Fprintln(t.Stdout, name)
	return api.TransferReply{Images: []api.Image{rec}, Fresh: fresh}, nil
}

// pullAny pulls what the user's word means: one reference, or for a name without a registry those that registries.conf gives, in order.
func (t *Transfer) pullAny(ctx context.Context, r api.TransferRequest, platform image.Platform, show *display) (ref.Ref, api.Image, bool, error) {
	config, err := hosts.Load(r.CertDir)
	if err != nil {
		return ref.Ref{}, api.Image{}, false, err
	}
	names, err := config.Short(r.Refs[0])
	if err != nil {
		return ref.Ref{}, api.Image{}, false, err
	}
	o := remote.Options{Insecure: r.Insecure, AuthFile: r.AuthFile, CertDir: r.CertDir, Hosts: config, Warn: show.warn}
	for i, name := range names {
		rec, fresh, err := t.pullRemote(ctx, name, platform, o, r.Policy, show)
		if err == nil || i == len(names)-1 || ctx.Err() != nil || !errors.Is(err, api.NotFound) && !errors.Is(err, api.Unauthorized) && !errors.Is(err, api.Unavailable) {
			return name, rec, fresh, err
		}
		show.warn("%s", err)
	}
	return ref.Ref{}, api.Image{}, false, api.Errorf(api.InvalidArgument, "image %s: names no image", r.Refs[0])
}

// pullTags pulls all tags of a repository, one after the other, so that a layer which many of them have is asked for once.
func (t *Transfer) pullTags(ctx context.Context, r api.TransferRequest, name ref.Ref, platform image.Platform, show *display) (api.TransferReply, error) {
	var reply api.TransferReply
	if base.Is(name) {
		return reply, api.Errorf(api.InvalidArgument, "%s comes with Brig and has one tag", name.FamiliarName())
	}
	config, err := hosts.Load(r.CertDir)
	if err != nil {
		return reply, err
	}
	names, err := config.Short(r.Refs[0])
	if err != nil {
		return reply, err
	}
	o := remote.Options{Insecure: r.Insecure, AuthFile: r.AuthFile, CertDir: r.CertDir, Hosts: config, Warn: show.warn}
	var tags []string
	for i, candidate := range names {
		var repo *remote.Repository
		if repo, err = remote.Open(ctx, candidate, o); err == nil {
			tags, err = repo.Tags(ctx)
		}
		if name = candidate; err == nil {
			break
		}
		if i < len(names)-1 {
			show.warn("%s", err)
		}
	}
	if err != nil {
		return reply, err
	}
	if len(tags) == 0 {
		return reply, api.Errorf(api.NotFound, "repository %s has no tags", name.FamiliarName())
	}
	for _, tag := range tags {
		name.Tag = tag
		rec, fresh, err := t.pullRemote(ctx, name, platform, o, r.Policy, show)
		if err != nil {
			return reply, err
		}
		reply.Images, reply.Fresh = append(reply.Images, rec), reply.Fresh || fresh
	}
	return reply, nil
}

// noteShort keeps by which short name an image was pulled, so that the name finds it again.
func (t *Transfer) noteShort(rec api.Image, short string) (api.Image, error) {
	l, err := t.stores.Lock()
	if err != nil {
		return rec, err
	}
	defer l.Release()
	now, err := t.stores.Meta.Image(rec.Name)
	if errors.Is(err, api.NotFound) || err == nil && now.Short == short {
		return rec, nil // pruned already, or known
	}
	if err != nil {
		return rec, err
	}
	all, err := t.stores.Meta.Images()
	if err != nil {
		return rec, err
	}
	for _, other := range all { // the name means one image
		if other.Short == short && other.Name != now.Name {
			other.Short = ""
			if err := t.stores.Meta.PutImage(other); err != nil {
				return rec, err
			}
		}
	}
	now.Short = short
	return now, t.stores.Meta.PutImage(now)
}

func (t *Transfer) pullRemote(ctx context.Context, name ref.Ref, platform image.Platform, o remote.Options, policy string, show *display) (api.Image, bool, error) {
	judge, err := trust.Open(policy)
	if err != nil {
		return api.Image{}, false, err
	}
	if judge != nil { // what stays out whatever its signatures is not asked for
		if _, err := judge.Needs(subject(name)); err != nil {
			return api.Image{}, false, err
		}
	}
	open := sync.OnceValues(func() (*remote.Repository, error) {
		return remote.Open(ctx, name, o)
	})
	old, haveOld := t.present(name.String(), platform)
	keep := func() (api.Image, bool, error) {
		rec, err := t.vouch(ctx, judge, name, old, open)
		return rec, false, err
	}
	w := wanted{name, platform, judge, old, haveOld, keep}
	if haveOld && name.Digest != "" {
		return keep() // what a digest names does not change
	}
	repo, err := open()
	if err != nil {
		return api.Image{}, false, err
	}
	show.say("%s: Pulling from %s", name.Identifier(), pathOf(name))
	if haveOld {
		if d, err := repo.Head(ctx); err == nil && d == old.Target.Digest {
			return keep()
		} else if err != nil && !errors.Is(err, api.Unavailable) {
			return api.Image{}, false, err
		}
	}
	rec, fresh, err := t.fetch(ctx, repo, w, show)
	for errors.Is(err, api.Corrupt) && repo.Distrust(err) { // without the mirrors that it came from
		rec, fresh, err = t.fetch(ctx, repo, w, show)
	}
	return rec, fresh, err
}

// wanted is what a pull is asked for, and what the store has of it.
type wanted struct {
	name     ref.Ref
	platform image.Platform
	judge    *trust.Judge // nil: everything is accepted
	old      api.Image
	haveOld  bool
	keep     func() (api.Image, bool, error) // stays with old
}

// fetch brings in what the reference points to now, unless that is old.
func (t *Transfer) fetch(ctx context.Context, repo *remote.Repository, w wanted, show *display) (api.Image, bool, error) {
	name, judge := w.name, w.judge
	target, err := repo.Resolve(ctx)
	if err != nil {
		return api.Image{}, false, err
	}
	img, added, err := t.resolve(ctx, repo, target, w.platform)
	if err != nil {
		return api.Image{}, false, api.Errorf(api.KindOf(err), "image %s: %w", name.Familiar(), err)
	}
	if w.haveOld && w.old.Target.Digest == target.Digest && w.old.Manifest.Digest == img.Manifest.Digest {
		t.takeBack(added)
		return w.keep()
	}
	v, err := accept(ctx, judge, subject(name, img.Target.Digest, img.Manifest.Digest), repo)
	if err != nil {
		t.takeBack(added)
		return api.Image{}, false, err
	}
	if img.Warning != "" {
		show.warn("image %s: %s", name.Familiar(), img.Warning)
	}
	said := &v
	if judge == nil { // without a policy the name says where it came from
		said = nil
	}
	if t.lazy {
		rec, ok, err := t.lazily(ctx, repo, img, name.String(), show, &added, said)
		if ok || err != nil {
			return rec, true, wrap(name, err)
		}
	}
	rec, err := t.ingest(ctx, img, name.String(), show, added, said)
	if err != nil {
		return api.Image{}, false, wrap(name, err)
	}
	return rec, true, nil
}

// pullBase brings in the embedded image, unless the store has just that one.
func (t *Transfer) pullBase(ctx context.Context, name ref.Ref, platform image.Platform, show *display) (api.Image, bool, error) {
	src, entry, err := base.Open(name)
	if err != nil {
		return api.Image{}, false, err
	}
	defer src.Close()
	if old, ok := t.present(name.String(), platform); ok && old.Target.Digest == entry.Target.Digest {
		return old, false, nil
	}
	show.say("%s: Pulling from %s", name.Identifier(), name.Path)
	img, err := image.Resolve(ctx, src, entry.Target, platform)
	if err != nil {
		return api.Image{}, false, wrap(name, err)
	}
	rec, err := t.ingest(ctx, img, name.String(), show, garbage.Set{}, nil)
	return rec, err == nil, wrap(name, err)
}

// present returns the record of a name, if all layers of it are there and it is of the platform.
func (t *Transfer) present(name string, p image.Platform) (api.Image, bool) {
	rec, err := t.stores.Meta.Image(name)
	if err != nil {
		return rec, false
	}
	if have, err := image.ParsePlatform(rec.Platform); p != (image.Platform{}) && (err != nil || !have.Matches(p)) {
		return rec, false
	}
	for _, d := range []digest.Digest{rec.Target.Digest, rec.Manifest.Digest, digest.Digest(rec.ID)} {
		if !t.stores.Content.Has(d) {
			return rec, false
		}
	}
	for _, l := range rec.Layers {
		if !t.stores.Snapshot.Has(digest.Digest(l.DiffID)) || !t.stores.Content.Has(l.Blob.Digest) {
			return rec, false
		}
	}
	return rec, true
}

// pathOf is the repository as docker shows it: with the registry, unless that is docker's own.
func pathOf(r ref.Ref) string {
	if r.Domain == ref.DefaultDomain {
		return r.Path
	}
	return r.Name()
}

// wrap names the image that an error is about.
func wrap(name ref.Ref, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return api.Errorf(api.KindOf(err), "image %s: %w", name.Familiar(), err)
}
