package cli

import (
	"slices"
	"strings"
	"testing"

	"brig/api"
)

// TestPushRequests holds what push and copy ask of the engine, and print.
func TestPushRequests(t *testing.T) {
	reply := api.TransferReply{Sent: []api.Sent{{Name: "1", Digest: "sha256:aa", Size: 7}}}
	for line, want := range map[string]struct {
		r   api.TransferRequest
		out string
	}{
		"push a":                                {api.TransferRequest{Op: "push", Refs: []string{"a"}}, "Using default tag: latest\n1: digest: sha256:aa size: 7\n"},
		"push localhost:5000/a":                 {api.TransferRequest{Op: "push", Refs: []string{"localhost:5000/a"}}, "Using default tag: latest\n1: digest: sha256:aa size: 7\n"},
		"push a:1":                              {api.TransferRequest{Op: "push", Refs: []string{"a:1"}}, "1: digest: sha256:aa size: 7\n"},
		"push -q a:1":                           {api.TransferRequest{Op: "push", Refs: []string{"a:1"}, Quiet: true}, "docker.io/library/a:1\n"},
		"push -q a":                             {api.TransferRequest{Op: "push", Refs: []string{"a"}, Quiet: true}, "docker.io/library/a:latest\n"},
		"push -a --tls-verify=false a":          {api.TransferRequest{Op: "push", Refs: []string{"a"}, AllTags: true, Insecure: true}, "1: digest: sha256:aa size: 7\n"},
		"push -aq a":                            {api.TransferRequest{Op: "push", Refs: []string{"a"}, AllTags: true, Quiet: true}, "docker.io/library/a\n"},
		"push --platform linux/arm64 a:1":       {api.TransferRequest{Op: "push", Refs: []string{"a:1"}, Platform: "linux/arm64"}, "1: digest: sha256:aa size: 7\n"},
		"push a ssh://h":                        {api.TransferRequest{Op: "push", Refs: []string{"a"}, To: "ssh://h"}, "1: digest: sha256:aa size: 7\n"},
		"push ssh://h a":                        {api.TransferRequest{Op: "push", Refs: []string{"a"}, To: "ssh://h"}, "1: digest: sha256:aa size: 7\n"},
		"copy docker://a oci:b":                 {api.TransferRequest{Op: "copy", Refs: []string{"docker://a", "oci:b"}}, "Digest: sha256:aa\n"},
		"copy -aq --referrers docker://a oci:b": {api.TransferRequest{Op: "copy", Refs: []string{"docker://a", "oci:b"}, All: true, Referrers: true, Quiet: true}, "sha256:aa\n"},
		"copy --src-tls-verify=false x y":       {api.TransferRequest{Op: "copy", Refs: []string{"x", "y"}, Insecure: true}, "Digest: sha256:aa\n"},
		"copy --dest-tls-verify=false x y":      {api.TransferRequest{Op: "copy", Refs: []string{"x", "y"}, DestInsecure: true}, "Digest: sha256:aa\n"},
		"copy --platform linux/arm64 x y":       {api.TransferRequest{Op: "copy", Refs: []string{"x", "y"}, Platform: "linux/arm64"}, "Digest: sha256:aa\n"},
		"receive":                               {api.TransferRequest{Op: "receive"}, ""},
	} {
		f := &fake{reply: reply}
		brig(t, f, strings.Fields(line)...).wants(t, 0, want.out)
		if !slices.Equal(f.request.Refs, want.r.Refs) {
			t.Errorf("%s: %q", line, f.request.Refs)
		}
		f.request.Refs, want.r.Refs = nil, nil
		if f.request.Op != want.r.Op || f.request.To != want.r.To || f.request.Platform != want.r.Platform || f.request.Quiet != want.r.Quiet || f.request.All != want.r.All ||
			f.request.AllTags != want.r.AllTags || f.request.Referrers != want.r.Referrers || f.request.Insecure != want.r.Insecure || f.request.DestInsecure != want.r.DestInsecure {
			t.Errorf("%s: %+v, want %+v", line, f.request, want.r)
		}
	}
	for line, want := range map[string]struct {
		code int
		text string
	}{
		"push":                           {1, "brig: 'brig push' requires at least 1 and at most 2 arguments"},
		"push -a a:1":                    {1, "brig: tag can't be used with --all-tags/-a"},
		"push a b":                       {1, "brig: an image is pushed to one place"},
		"push ssh://a":                   {1, "brig: the image to push is missing"},
		"push -a a ssh://h":              {1, "brig: --all-tags is for a push to a registry"},
		"push --disable-content-trust a": {125, "brig: push: --disable-content-trust is not supported"},
		"push UPPER":                     {1, "brig: \"UPPER\": invalid reference format"},
		"copy a":                         {1, "brig: 'brig copy' requires 2 arguments"},
		"copy --format v2s2 a b":         {125, "brig: unknown flag: --format"},
	} {
		brig(t, &fake{}, strings.Fields(line)...).complains(t, want.code, want.text)
	}
}
