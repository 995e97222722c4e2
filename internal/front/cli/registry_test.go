package cli

import (
	"strings"
	"testing"

	"brig/api"
)

// TestRegistryServe: flags become a request, and what cannot be one is refused before anything is served.
func TestRegistryServe(t *testing.T) {
	f := &fake{}
	if r := brig(t, f, "registry", "serve"); r.code != 0 || len(f.calls) != 1 || f.calls[0] != "registry {Addr:127.0.0.1:5000 TLSCert: TLSKey: Htpasswd: ReadOnly:false Mirrors:[]}" {
		t.Errorf("%+v %q", r, f.calls)
	}
	f = &fake{}
	brig(t, f, "registry", "serve", "--addr", ":1", "--tls-cert", "c", "--tls-key", "k", "--htpasswd", "h", "--read-only", "--mirror", "docker.io", "--mirror", "quay.io=https://x")
	if len(f.calls) != 1 || f.calls[0] != "registry {Addr::1 TLSCert:c TLSKey:k Htpasswd:h ReadOnly:true Mirrors:[docker.io quay.io=https://x]}" {
		t.Errorf("%q", f.calls)
	}
	for want, args := range map[int][]string{
		125: {"registry", "serve", "--addr", "5000"},
		1:   {"registry", "serve", "--tls-cert", "c"},
	} {
		f = &fake{}
		if r := brig(t, f, args...); r.code != want || len(f.calls) != 0 || r.errOut == "" {
			t.Errorf("%q: %+v %q", args, r, f.calls)
		}
	}
	if r := brig(t, &fake{}, "registry", "serve", "--mirror", "docker.io=mirror.example.org"); r.code != 125 || !strings.Contains(r.errOut, "DOMAIN=URL") {
		t.Errorf("%+v", r)
	}
	if r := brig(t, &fake{err: api.Errorf(api.Unavailable, "no brigd")}, "registry", "serve"); r.code != 1 || !strings.Contains(r.errOut, "no brigd") {
		t.Errorf("%+v", r)
	}
	if r := brig(t, &fake{}, "registry"); r.code != 0 || !strings.Contains(r.out, "serve") {
		t.Errorf("%+v", r)
	}
}
