package transfer

import (
	"context"
	"errors"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/image/remote/credential"
	"brig/internal/image/remote/hosts"
)

const (
	usualLimit = 25  // docker's
	maxLimit   = 100 // docker's
)

// Search looks for repositories in the registry that the term names, else in those for short names, else in docker.io.
func (t *Transfer) Search(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	limit := r.Limit
	if limit == 0 {
		limit = usualLimit
	}
	if limit < 1 || limit > maxLimit {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "limit %d is outside the range of [1, %d]", r.Limit, maxLimit)
	}
	config, err := hosts.Load(r.CertDir)
	if err != nil {
		return api.TransferReply{}, err
	}
	o := remote.Options{Insecure: r.Insecure, AuthFile: r.AuthFile, CertDir: r.CertDir, Hosts: config}
	where, term := []string{ref.DefaultDomain}, r.Term
	if first, rest, ok := strings.Cut(r.Term, "/"); ok && !ref.Short(r.Term) {
		host, err := credential.Host(first)
		if err != nil {
			return api.TransferReply{}, err
		}
		where, term = []string{host}, rest
	} else if search := config.Search(); len(search) > 0 {
		where = search
	}
	if term == "" && where[0] == ref.DefaultDomain {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "search: docker.io wants a word to look for")
	}
	var reply api.TransferReply
	var errs []error
	for _, host := range where {
		found, err := remote.Search(ctx, host, term, limit, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reply.Found = append(reply.Found, found...)
	}
	if len(errs) == len(where) {
		return api.TransferReply{}, errors.Join(errs...)
	}
	show := newDisplay(t.Stderr, r.Quiet, true)
	for _, err := range errs {
		show.warn("%s", err)
	}
	show.finish()
	return reply, nil
}
