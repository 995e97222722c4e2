package registry

import (
	"context"
	"errors"
	"io"
	"time"

	"brig/api"
	"brig/internal/store/content"
	"brig/internal/store/repository"

	"github.com/opencontainers/go-digest"
)

const (
	// busy is how long a request waits for another one on the same upload: a client that was cut off comes back sooner than its old
	// connection is seen to be dead.
	busy = 5 * time.Second
	// buffer is how many bytes of a blob are in memory at a time.
	buffer = 128 << 10
)

// PutBlob takes in a whole blob. length is its size in bytes, or -1.
func (r *Registry) PutBlob(ctx context.Context, repo string, d digest.Digest, length int64, body io.Reader) error {
	if err := errors.Join(r.writable(repo), content.Check(d), checkLength(length)); err != nil {
		return err
	}
	return r.store(ctx, repo, d, length, body)
}

// store claims a blob, then brings it in. The claim is given up if the blob does not come.
func (r *Registry) store(ctx context.Context, repo string, d digest.Digest, length int64, body io.Reader) error {
	had := r.repos.HasBlob(repo, d)
	mine, err := r.claim(ctx, repo, d)
	if err != nil {
		return err
	}
	if err := r.take(ctx, d, length, body); err != nil {
		if !had {
			r.disclaim(repo, d, mine)
		}
		return err
	}
	// Another request for the same blob may have claimed it after this one, and given it up.
	return r.locked(ctx, func() error {
		if r.repos.BlobClaim(repo, d) == mine {
			return nil
		}
		if !r.stores.Content.Has(d) {
			return api.Errorf(api.Unavailable, "blob %s was removed while it came in: try again", d)
		}
		_, err := r.repos.AddBlob(repo, d)
		return err
	})
}

// take writes a blob to the store. One that is there, and claimed, is not written again: who sends it only has to have it.
func (r *Registry) take(ctx context.Context, d digest.Digest, length int64, body io.Reader) error {
	if r.stores.Content.Has(d) {
		h := d.Algorithm().Hash()
		n, err := copyBlob(h, body, maxBlob)
		if err != nil {
			return err
		}
		if got := digest.NewDigest(d.Algorithm(), h); got != d || length >= 0 && n != length {
			return api.Errorf(api.Corrupt, "blob %s: the %d bytes that arrived have digest %s", d, n, got)
		}
		return ctx.Err()
	}
	w, err := r.stores.Content.Writer(ctx, d, length)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := copyBlob(w, body, maxBlob); err != nil {
		return err
	}
	_, _, err = w.Commit()
	return err
}

// disclaim gives up a claim of a blob that did not come, unless another request made its own meanwhile. A failure leaves it to expire.
func (r *Registry) disclaim(repo string, d digest.Digest, mine repository.Claim) {
	_ = r.locked(r.ctx, func() error {
		if r.repos.BlobClaim(repo, d) != mine {
			return nil
		}
		return r.repos.RemoveBlob(repo, d) // if the blob is there, another request is about to claim it
	})
}

// StartUpload begins a blob that comes in parts, and returns the upload's ID.
func (r *Registry) StartUpload(_ context.Context, repo string) (string, error) {
	if err := r.writable(repo); err != nil {
		return "", err
	}
	return r.repos.StartUpload(repo)
}

// UploadSize returns how many bytes of an upload have come.
func (r *Registry) UploadSize(_ context.Context, repo, id string) (int64, error) {
	return r.repos.UploadSize(repo, id)
}

// AppendUpload adds a part and returns how many bytes have come, also when there is an error: what came before a connection broke stays.
// The part must begin at offset, unless that is negative, else nothing is taken and the error is api.Conflict; length is its size, or -1.
func (r *Registry) AppendUpload(ctx context.Context, repo, id string, offset, length int64, body io.Reader) (int64, error) {
	u, err := r.upload(ctx, repo, id)
	if err != nil {
		return 0, err
	}
	err = appendTo(u, offset, length, body)
	size := u.Size()
	return size, errors.Join(err, u.Close())
}

// FinishUpload adds a last part, which may be empty, and turns the upload to a blob of digest d. Other bytes than these are api.Corrupt and
// end the upload; a part that is refused does not.
func (r *Registry) FinishUpload(ctx context.Context, repo, id string, d digest.Digest, offset, length int64, body io.Reader) (int64, error) {
	if err := content.Check(d); err != nil {
		return 0, err
	}
	u, err := r.upload(ctx, repo, id)
	if err != nil {
		return 0, err
	}
	if u.Size() == 0 && offset <= 0 {
		// The whole blob comes in this request: it need not be written twice.
		err = checkLength(length)
		if err == nil {
			err = r.store(ctx, repo, d, length, body)
		}
	} else if err = appendTo(u, offset, length, body); err == nil {
		err = r.store(ctx, repo, d, u.Size(), u.Reader())
	}
	size := u.Size()
	if err == nil || errors.Is(err, api.Corrupt) {
		return size, errors.Join(err, u.Remove())
	}
	return size, errors.Join(err, u.Close())
}

// CancelUpload forgets an upload.
func (r *Registry) CancelUpload(ctx context.Context, repo, id string) error {
	u, err := r.upload(ctx, repo, id)
	if err != nil {
		return err
	}
	return u.Remove()
}

// upload opens an upload, waiting a little for another request that writes it.
func (r *Registry) upload(ctx context.Context, repo, id string) (*repository.Upload, error) {
	for deadline := time.Now().Add(busy); ; {
		u, err := r.repos.OpenUpload(repo, id)
		if !errors.Is(err, api.Unavailable) || time.Now().After(deadline) {
			return u, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// appendTo adds a part. One that is longer than it was said to be is taken back.
func appendTo(u *repository.Upload, offset, length int64, body io.Reader) error {
	begin := u.Size()
	if offset >= 0 && offset != begin {
		return api.Errorf(api.Conflict, "the part begins at byte %d, where byte %d is wanted", offset, begin)
	}
	if err := checkLength(length); err != nil {
		return err
	}
	limit := maxBlob - begin
	if length >= 0 {
		limit = min(limit, length)
	}
	n, err := copyBlob(u, body, limit)
	switch {
	case errors.Is(err, errTooLong):
		return errors.Join(err, u.Truncate(begin))
	case err == nil && length >= 0 && n < length:
		return api.Errorf(api.InvalidArgument, "%d bytes came instead of %d", n, length)
	}
	return err
}

func checkLength(length int64) error {
	if length > maxBlob {
		return api.Errorf(api.Exhausted, "a blob of %d bytes is more than the %d that are allowed", length, int64(maxBlob))
	}
	return nil
}

var errTooLong = api.Errorf(api.InvalidArgument, "more bytes came than were announced")

// copyBlob copies, in pieces, all of src, which may have limit bytes.
func copyBlob(dst io.Writer, src io.Reader, limit int64) (int64, error) {
	// Without the wrappers io.Copy would let an end choose its own way, and buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{io.LimitReader(src, limit)}, make([]byte, buffer))
	if err != nil || n < limit {
		return n, err
	}
	var one [1]byte
	if m, err := io.ReadFull(src, one[:]); m > 0 {
		return n, errTooLong
	} else if err != io.EOF {
		return n, err
	}
	return n, nil
}
