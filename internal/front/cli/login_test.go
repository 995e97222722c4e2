package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"brig/api"
)

// TestLogin: what the door asks of the engine, where the password goes, and what the user is told.
func TestLogin(t *testing.T) {
	for _, c := range []struct {
		name, stdin, args string
		replies           []api.TransferReply
		code              int
		secrets           []string // standard input of each request
		user, out, errOut string
	}{
		{"given", "", "login -u me -p word r.com", []api.TransferReply{{Login: &api.Login{File: "/f"}}}, 0, []string{"word"}, "me", "\nLogin Succeeded\n", "stored unencrypted in '/f'"},
		{"from stdin", "word\r\n", "login -u me --password-stdin r.com", []api.TransferReply{{Login: &api.Login{Helper: "h"}}}, 0, []string{"word"}, "me", "\nLogin Succeeded\n", ""},
		{"spaces stay", " w \n\n", "login -u me --password-stdin", []api.TransferReply{{Login: &api.Login{Helper: "h"}}}, 0, []string{" w \n"}, "me", "\nLogin Succeeded\n", ""},
		{"kept", "", "login r.com", []api.TransferReply{{Login: &api.Login{User: "old"}}}, 0, []string{""}, "", "Authenticating with existing credentials... [Username: old]\n\nLogin Succeeded\n", ""},
		{"kept, refused", "", "login r.com", []api.TransferReply{{Login: &api.Login{User: "old", Refused: "no more"}}}, 1, []string{""}, "", "Authenticating with existing credentials... [Username: old]\n", "Login did not succeed, error: no more\nbrig: Error: Cannot perform an interactive login from a non TTY device\n"},
		{"none kept", "", "login r.com", []api.TransferReply{{Login: &api.Login{}}}, 1, []string{""}, "", "", "non TTY device"},
		{"no password", "", "login -u me r.com", nil, 1, nil, "", "", "non TTY device"},
		{"empty password", "\n", "login -u me --password-stdin r.com", nil, 1, nil, "", "", "password is empty"},
		{"refused", "", "login -u me -p word r.com", []api.TransferReply{{Error: "401 Unauthorized", Kind: api.Unauthorized}}, 1, []string{"word"}, "me", "", "brig: 401 Unauthorized\n"},
		{"no answer", "", "login -u me -p word r.com", []api.TransferReply{{}}, 1, []string{"word"}, "me", "", "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &registryFake{replies: c.replies}
			var out, errOut bytes.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a := &app{streams: api.Streams{Stdin: strings.NewReader(c.stdin), Stdout: &out, Stderr: &errOut}, newEngine: func(Options) Engine { return f }, signals: newCatcher(cancel), seLinux: hasSELinux}
			defer a.signals.stop()
			r := result{code: a.main(ctx, strings.Fields(c.args))}
			r.out, r.errOut = out.String(), errOut.String()
			if r.code != c.code || r.out != c.out || !strings.Contains(r.errOut, c.errOut) {
				t.Errorf("code %d, out %q, err %q", r.code, r.out, r.errOut)
			}
			if !slices.Equal(f.secrets, c.secrets) || f.request.User != c.user {
				t.Errorf("secrets %q, request %+v", f.secrets, f.request)
			}
			if b, err := json.Marshal(f.request); err != nil || strings.Contains(string(b), "word") {
				t.Errorf("the password is in the request: %s, %v", b, err)
			}
		})
	}
}

// registryFake answers one transfer after the other, and keeps what came by standard input.
type registryFake struct {
	fake
	replies []api.TransferReply
	secrets []string
}

func (f *registryFake) Transfer(_ context.Context, r api.TransferRequest, s api.Streams) (api.TransferReply, error) {
	f.request = r
	b, err := io.ReadAll(s.Stdin)
	f.secrets = append(f.secrets, string(b))
	reply := f.replies[0]
	f.replies = f.replies[1:]
	return reply, err
}

func TestLogout(t *testing.T) {
	f := &fake{reply: api.TransferReply{Login: &api.Login{Server: "r.com", Failed: "helper", Others: []string{"/auth.json"}}}}
	r := brig(t, f, "logout", "--authfile", "x", "r.com")
	if r.code != 0 || r.out != "Removing login credentials for r.com\n" || !strings.Contains(r.errOut, "could not erase credentials:\nhelper\n") || !strings.Contains(r.errOut, "/auth.json") || f.request.AuthFile != "x" || f.request.Server != "r.com" {
		t.Errorf("%+v %+v", r, f.request)
	}
}

// TestRegistryFlags: where credentials and certificates are goes to whoever speaks with the registry, with every verb that does.
func TestRegistryFlags(t *testing.T) {
	for _, line := range []string{
		"pull --authfile a --cert-dir c --tls-verify=false img", "push --authfile a --cert-dir c --tls-verify=false img", "search --authfile a --cert-dir c --tls-verify=false img",
		"login --authfile a --cert-dir c --tls-verify=false -u me -p x r.com", "copy --authfile a --cert-dir c --src-tls-verify=false x y",
	} {
		f := &fake{reply: api.TransferReply{Images: []api.Image{{}}}}
		brig(t, f, strings.Fields(line)...)
		if r := f.request; r.AuthFile != "a" || r.CertDir != "c" || !r.Insecure {
			t.Errorf("%s: asked for %+v", line, r)
		}
	}
}
