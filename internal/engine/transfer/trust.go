package transfer

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/base"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/image/trust"
	"brig/internal/store/garbage"
)

// verdict is an image that was accepted: what its record remembers of that, and the signatures that are kept for the next decision.
type verdict struct {
	trust      api.Trust
	signatures []trust.Signature
}

// accept decides about an image before any of it comes in. A nil judge accepts all. repo is asked for signatures where they are needed;
// it is nil for what does not come from a registry.
func accept(ctx context.Context, judge *trust.Judge, s trust.Subject, repo image.Referring) (verdict, error) {
	v := verdict{trust: api.Trust{Transport: s.Transport, Reference: s.Reference}}
	if judge == nil {
		return v, nil
	}
	needs, err := judge.Needs(s)
	if err != nil {
		return v, err
	}
	if needs && repo != nil {
		if v.signatures, err = trust.Fetch(ctx, repo, s.Digests); err != nil {
			return v, err
		}
	}
	v.trust.Files, err = judge.Decide(s, v.signatures)
	return v, err
}

// subject is an image in a registry; its record tells the digests.
func subject(name ref.Ref, digests ...digest.Digest) trust.Subject {
	return trust.Subject{Transport: trust.Docker, Reference: name.String(), Digests: digests}
}

// vouch decides about an image that is in the store already and that a registry still has under its name: by the signatures that are kept,
// else by those that the registry has now.
func (t *Transfer) vouch(ctx context.Context, judge *trust.Judge, name ref.Ref, rec api.Image, repo func() (*remote.Repository, error)) (api.Image, error) {
	if judge == nil {
		return rec, nil
	}
	s := subject(name, rec.Target.Digest, rec.Manifest.Digest)
	v := verdict{trust: api.Trust{Transport: s.Transport, Reference: s.Reference}, signatures: t.kept(rec)}
	files, err := judge.Decide(s, v.signatures)
	if err == nil {
		v.trust.Files = files
	} else {
		if needs, _ := judge.Needs(s); !needs || !errors.Is(err, api.Denied) {
			return rec, err
		}
		r, err := repo()
		if err != nil {
			return rec, err
		}
		if v, err = accept(ctx, judge, s, r); err != nil {
			return rec, err
		}
	}
	return t.attest(rec, v)
}

// kept returns the signatures that were found for an image when it came in. Without them it counts as not signed.
func (t *Transfer) kept(rec api.Image) []trust.Signature {
	if rec.Trust.Signatures == "" {
		return nil
	}
	b, err := t.stores.Content.Bytes(digest.Digest(rec.Trust.Signatures), trust.MaxStored)
	if err != nil {
		return nil
	}
	list, err := trust.Unpack(b)
	if err != nil {
		return nil
	}
	return list
}

// attest writes into the record what it was accepted for, unless the name stands for another image by now.
func (t *Transfer) attest(rec api.Image, v verdict) (api.Image, error) {
	var doc []byte
	if len(v.signatures) > 0 {
		var err error
		if doc, err = trust.Pack(v.signatures); err != nil {
			return rec, err
		}
		v.trust.Signatures = digest.FromBytes(doc).String()
	}
	l, err := t.stores.Lock()
	if err != nil {
		return rec, err
	}
	defer l.Release()
	now, err := t.stores.Meta.Image(key(rec))
	if err != nil {
		return rec, err
	}
	if now.ID != rec.ID || now.Target.Digest != rec.Target.Digest || now.Manifest.Digest != rec.Manifest.Digest {
		return rec, api.Errorf(api.Conflict, "image %s: another process gave this name to another image meanwhile: try again", key(rec))
	}
	if sameTrust(now.Trust, v.trust) && (doc == nil || t.stores.Content.Has(digest.FromBytes(doc))) {
		return now, nil
	}
	if doc != nil {
		if err := t.putBlob(doc); err != nil {
			return rec, err
		}
	}
	before := now.Trust.Signatures
	now.Trust = v.trust
	if err := t.stores.Meta.PutImage(now); err != nil {
		return rec, err
	}
	if before != "" && before != v.trust.Signatures {
		t.stores.Remove(garbage.Set{Blobs: []digest.Digest{digest.Digest(before)}}) // a failure leaves it to the next removal
	}
	return now, nil
}

// keepSignatures stores the signatures that a verdict rests on, and returns what an image's record says of it. The caller holds the store's lock.
func (t *Transfer) keepSignatures(v verdict) (api.Trust, error) {
	if len(v.signatures) == 0 {
		return v.trust, nil
	}
	doc, err := trust.Pack(v.signatures)
	if err != nil {
		return v.trust, err
	}
	v.trust.Signatures = digest.FromBytes(doc).String()
	return v.trust, t.putBlob(doc)
}

// putBlob stores a small blob.
func (t *Transfer) putBlob(b []byte) error {
	d := digest.FromBytes(b)
	if t.stores.Content.Has(d) {
		return nil
	}
	w, err := t.stores.Content.Writer(context.Background(), d, int64(len(b)))
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := bytes.NewReader(b).WriteTo(w); err != nil {
		return err
	}
	_, _, err = w.Commit()
	return err
}

func sameTrust(a, b api.Trust) bool {
	return a.Transport == b.Transport && a.Reference == b.Reference && a.Signatures == b.Signatures && slices.Equal(a.Files, b.Files)
}

// key is what the record of an image is kept under.
func key(rec api.Image) string {
	if rec.Name == "" {
		return rec.ID
	}
	return rec.Name
}

// young is how long the record of an image may be without its verdict while another process brings it in.
const young = 2 * time.Second

// Verify decides anew about an image in the store, without the network: the policy has changed since it came in.
func (t *Transfer) Verify(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	if len(r.Refs) != 1 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "verify: %d references, want one", len(r.Refs))
	}
	judge, err := trust.Open(r.Policy)
	if err != nil {
		return api.TransferReply{}, err
	}
	for {
		rec, err := t.stores.Meta.Image(r.Refs[0])
		if err != nil {
			return api.TransferReply{}, err
		}
		if judge != nil {
			if rec, err = t.verify(judge, rec); errors.Is(err, api.Denied) && rec.Trust.Transport == "" && time.Since(rec.Pulled) < young {
				select { // it may be on its way
				case <-ctx.Done():
					return api.TransferReply{}, context.Cause(ctx)
				case <-time.After(young / 20):
					continue
				}
			}
			if err != nil {
				return api.TransferReply{}, err
			}
		}
		return api.TransferReply{Images: []api.Image{rec}}, nil
	}
}

// verify decides by where the record says that the image came from.
func (t *Transfer) verify(judge *trust.Judge, rec api.Image) (api.Image, error) {
	tr := rec.Origin()
	if isBase(tr, rec) || tr.Transport == trust.Storage {
		return t.attest(rec, verdict{trust: api.Trust{Transport: tr.Transport, Reference: tr.Reference, Files: judge.Files()}})
	}
	s := trust.Subject{Transport: tr.Transport, Reference: tr.Reference, Digests: []digest.Digest{rec.Target.Digest, rec.Manifest.Digest}}
	v := verdict{trust: api.Trust{Transport: tr.Transport, Reference: tr.Reference}, signatures: t.kept(rec)}
	files, err := judge.Decide(s, v.signatures)
	if err != nil {
		if needs, nerr := judge.Needs(s); needs && nerr == nil && len(v.signatures) == 0 && s.Reference != "" {
			return rec, api.Errorf(api.Denied, "%w in the store: fetch it with `brig pull %s`", err, familiar(s.Reference))
		}
		return rec, err
	}
	v.trust.Files = files
	return t.attest(rec, v)
}

// isBase reports whether it is the image in this program, which is trusted as the program is.
func isBase(tr api.Trust, rec api.Image) bool {
	name, err := ref.Parse(tr.Reference)
	if tr.Transport != trust.Docker || err != nil || !base.Is(name) {
		return false
	}
	src, entry, err := base.Open(name)
	if err != nil {
		return false
	}
	defer src.Close()
	return entry.Target.Digest == rec.Target.Digest
}

// cameFrom is what a policy is asked about an image of an archive or a folder; file is empty for standard input.
func cameFrom(src image.Lister, file string, e image.Entry) trust.Subject {
	s := trust.Subject{Transport: trust.OCIArchive, Digests: []digest.Digest{e.Target.Digest}}
	if l, ok := src.(interface{ Transport() string }); ok {
		s.Transport = l.Transport()
	}
	if file == "" {
		return s
	}
	if abs, err := filepath.Abs(file); err == nil {
		if real, err := filepath.EvalSymlinks(abs); err == nil { // what it is, not what it is called
			abs = real
		}
		s.Reference = abs
	}
	return s
}

// ShowTrust prints the signature policy.
func (t *Transfer) ShowTrust(r api.TransferRequest) (api.TransferReply, error) {
	scope := ""
	if len(r.Refs) > 0 {
		scope = r.Refs[0]
	}
	return api.TransferReply{}, trust.Show(t.Stdout, r.Policy, r.Format, scope)
}
