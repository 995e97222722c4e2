package transfer

import (
	"context"
	"errors"
	"io"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/image/remote/credential"
)

// maxPassword bounds a password, in bytes. Tokens that stand for one are long.
const maxPassword = 64 << 10

// Login has a registry say whether it takes a user's password, and keeps it. Without a user it asks about the credentials that are kept;
// then a refusal is no error but told in the reply.
func (t *Transfer) Login(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	host, err := credential.Host(r.Server)
	if err != nil {
		return api.TransferReply{}, err
	}
	store := credential.Open(r.AuthFile)
	reply := &api.Login{Server: serverName(host)}
	var c credential.Credential
	if r.User == "" {
		c, err = store.Get(ctx, host, "")
		if err != nil {
			return api.TransferReply{}, err
		}
		if c.Empty() {
			return api.TransferReply{Login: reply}, nil
		}
		if reply.User = c.Username; c.Username == "" {
			reply.User = "<token>"
		}
	} else if c, err = t.password(r.User); err != nil {
		return api.TransferReply{}, err
	}
	keep, err := remote.Login(ctx, host, c, remote.Options{Insecure: r.Insecure, CertDir: r.CertDir})
	if r.User == "" {
		if errors.Is(err, api.Unauthorized) {
			reply.Refused = err.Error()
			err = nil
		}
		return api.TransferReply{Login: reply}, err
	}
	if err != nil {
		return api.TransferReply{}, err
	}
	kept, err := store.Put(ctx, host, keep)
	if err != nil {
		return api.TransferReply{}, api.Errorf(api.KindOf(err), "saving credentials: %w", err)
	}
	reply.File, reply.Helper = kept.File, kept.Helper
	return api.TransferReply{Login: reply}, nil
}

// password reads standard input: where the process's arguments would show it to everybody, this does not.
func (t *Transfer) password(user string) (credential.Credential, error) {
	b, err := io.ReadAll(io.LimitReader(t.Stdin, maxPassword+1))
	if err != nil {
		return credential.Credential{}, api.Errorf(api.InvalidArgument, "login: password: %w", err)
	}
	switch {
	case len(b) > maxPassword:
		return credential.Credential{}, api.Errorf(api.InvalidArgument, "login: the password is longer than %d bytes", maxPassword)
	case len(b) == 0:
		return credential.Credential{}, api.Errorf(api.InvalidArgument, "login: the password is empty")
	case strings.Contains(user, ":"):
		return credential.Credential{}, api.Errorf(api.InvalidArgument, "login: user name %q: a colon cannot be sent", user)
	}
	return credential.Credential{Username: user, Password: string(b)}, nil
}

// Logout forgets a registry's credentials. A helper that fails is told in the reply, as by docker.
func (t *Transfer) Logout(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	host, err := credential.Host(r.Server)
	if err != nil {
		return api.TransferReply{}, err
	}
	reply := &api.Login{Server: serverName(host)}
	_, reply.Others, err = credential.Open(r.AuthFile).Erase(ctx, host)
	if err != nil {
		if !errors.Is(err, api.Unauthorized) {
			return api.TransferReply{}, err
		}
		reply.Failed = err.Error()
	}
	return api.TransferReply{Login: reply}, nil
}

// serverName is what docker calls a registry.
func serverName(host string) string {
	if host == ref.DefaultDomain {
		return "https://index.docker.io/v1/"
	}
	return host
}
