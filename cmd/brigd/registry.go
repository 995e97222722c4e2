package main

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"time"

	"brig/api"
	"brig/internal/engine/registry"
	door "brig/internal/front/registry"
	"brig/internal/store/garbage"
)

// serveRegistry serves the registry of a root.
func serveRegistry(ctx context.Context, root string, r api.RegistryRequest) error {
	if (r.TLSCert == "") != (r.TLSKey == "") {
		return api.Errorf(api.InvalidArgument, "registry: --tls-cert and --tls-key belong together")
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	layout := garbage.Open(root).EnsureVersion
	if r.ReadOnly {
		layout = garbage.Open(root).CheckVersion
	}
	if err := layout(); err != nil {
		return err
	}
	var mirrors []registry.Mirror
	for _, s := range r.Mirrors {
		m, err := registry.ParseMirror(s)
		if err != nil {
			return err
		}
		for _, other := range mirrors {
			if other.Domain == m.Domain {
				return api.Errorf(api.InvalidArgument, "registry: %s is mirrored twice", m.Domain)
			}
		}
		mirrors = append(mirrors, m)
	}
	options := door.Options{ReadOnly: r.ReadOnly, Log: logf}
	if r.Htpasswd != "" {
		users, err := door.ReadUsers(r.Htpasswd, logf)
		if err != nil {
			return err
		}
		options.Users = users
	}
	config, err := tlsConfig(r)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{KeepAlive: time.Minute}).Listen(ctx, "tcp", r.Addr)
	if err != nil {
		return api.Errorf(api.Unavailable, "registry: --addr %s: %w", r.Addr, err)
	}
	warn(r, l.Addr())
	backend := registry.Open(root, mirrors, logf)
	defer backend.Close()
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	logf("registry of %s at %s://%s/v2/", root, scheme, l.Addr())
	return door.Serve(ctx, l, door.New(backend, options), config, logf)
}

// tlsConfig is nil where there is no certificate.
func tlsConfig(r api.RegistryRequest) (*tls.Config, error) {
	if r.TLSCert == "" {
		return nil, nil
	}
	load := func() (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(r.TLSCert, r.TLSKey)
		return &c, err
	}
	if _, err := load(); err != nil {
		return nil, api.Errorf(api.InvalidArgument, "registry: --tls-cert %s, --tls-key %s: %w", r.TLSCert, r.TLSKey, err)
	}
	certificates := &certificates{load: load, files: []string{r.TLSCert, r.TLSKey}}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificates.get}, nil
}

// warn says what an address that others can reach lets them do.
func warn(r api.RegistryRequest, a net.Addr) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return
	}
	switch {
	case r.Htpasswd == "" && !r.ReadOnly:
		logf("warning: whoever reaches %s can push and delete: --htpasswd asks for passwords, --read-only refuses", a)
	case r.Htpasswd != "" && r.TLSCert == "":
		logf("warning: passwords go to %s in the clear: --tls-cert and --tls-key, or a proxy with TLS before it", a)
	}
}
