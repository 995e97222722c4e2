// Package credential finds, keeps and forgets what a user knows of registries: passwords and tokens in docker's and podman's files, and in
// the helper programs that these name (docker-credential-NAME).
//
// Where it looks, in this order; the first place that knows something of the registry decides:
//
//	the file of --authfile or else $REGISTRY_AUTH_FILE; where there is one, it alone
//	$DOCKER_AUTH_CONFIG, which is the text of such a file
//	$DOCKER_CONFIG/config.json, or ~/.docker/config.json
//	$XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/UID/auth.json
//	$XDG_CONFIG_HOME/containers/auth.json, or ~/.config/containers/auth.json
//
// A file may have keys for a repository (host/team/app) and for what is above it (host/team, host): the longest decides. Within a file a
// helper named for the registry (credHelpers) comes first, then the one for all (credsStore), then what the file itself holds.
//
// Login and logout change one file: that of --authfile or $REGISTRY_AUTH_FILE, else docker's. What else stands in it is kept.
package credential

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
)

const (
	hub    = ref.DefaultDomain             // docker.io
	hubKey = "https://index.docker.io/v1/" // what docker calls it in its files and to helpers
)

// Credential is what a registry is told. The zero value is nobody.
type Credential struct {
	Username, Password string
	IdentityToken      string // exchanged for access tokens at the registry's token server, in place of a password
	RegistryToken      string // sent to the registry as it is
}

// Empty reports whether there is nothing to tell.
func (c Credential) Empty() bool { return c == Credential{} }

// Store is where a user's credentials are.
type Store struct {
	main   string   // the file that login and logout change
	others []string // read after it
	text   string   // $DOCKER_AUTH_CONFIG
	docker bool     // main is docker's own file
	extra  []string // helpers that are asked after the files: registries.conf
}

// Open says where credentials are, from the environment; authFile is --authfile, helpers are those of
// registries.conf, which are asked last. Nothing is read yet.
func Open(authFile string, helpers ...string) *Store {
	if authFile == "" {
		authFile = os.Getenv("REGISTRY_AUTH_FILE")
	}
	if authFile != "" {
		return &Store{main: authFile, extra: helpers}
	}
	home, _ := os.UserHomeDir() // without one, the files are not there
	s := &Store{text: os.Getenv("DOCKER_AUTH_CONFIG"), docker: true, extra: helpers}
	switch dir := os.Getenv("DOCKER_CONFIG"); {
	case dir != "":
		s.main = filepath.Join(dir, "config.json")
	case home != "":
		s.main = filepath.Join(home, ".docker/config.json")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		s.others = append(s.others, filepath.Join(dir, "containers/auth.json"))
	} else {
		s.others = append(s.others, fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()))
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		s.others = append(s.others, filepath.Join(dir, "containers/auth.json"))
	} else if home != "" {
		s.others = append(s.others, filepath.Join(home, ".config/containers/auth.json"))
	}
	return s
}

// Get finds the credential for a repository, or for the whole registry where repo is empty. host is docker.io for docker's own registry.
// Where nobody knows any it is empty.
func (s *Store) Get(ctx context.Context, host, repo string) (Credential, error) {
	if s.text != "" {
		f, err := parse([]byte(s.text))
		if err != nil {
			return Credential{}, api.Errorf(api.InvalidArgument, "$DOCKER_AUTH_CONFIG: %w", err)
		}
		if c, err := f.held(host, repo); err != nil || !c.Empty() {
			return c, named("$DOCKER_AUTH_CONFIG", err)
		}
	}
	for i, path := range append([]string{s.main}, s.others...) {
		if path == "" {
			continue
		}
		f, err := read(path)
		if err != nil {
			return Credential{}, err
		}
		if i == 0 && s.docker {
			f.detect()
		}
		if c, err := f.get(ctx, host, repo); err != nil || !c.Empty() {
			return c, named(path, err)
		}
	}
	for _, h := range s.extra {
		for _, name := range helperNames(host) {
			if c, err := runGet(ctx, h, name); err != nil || !c.Empty() {
				return c, named("registries.conf", err)
			}
		}
	}
	return Credential{}, nil
}

func named(where string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return api.Errorf(api.Unauthorized, "credentials in %s: %w", where, err)
}

// get asks the helpers of a file, then the file.
func (f *file) get(ctx context.Context, host, repo string) (Credential, error) {
	if h := f.helper(host); h != "" {
		for _, name := range helperNames(host) {
			c, err := runGet(ctx, h, name)
			if err != nil || !c.Empty() {
				return c, err
			}
		}
	}
	return f.held(host, repo)
}

// helperNames are what a helper may know a registry as: docker and podman differ about docker.io.
func helperNames(host string) []string {
	if host == hub {
		return []string{hubKey, hub}
	}
	return []string{host}
}

// key is what docker calls a registry.
func key(host string) string {
	if host == hub {
		return hubKey
	}
	return host
}

// Kept says where Put has put something.
type Kept struct {
	File   string
	Helper string // a helper program keeps the secret; empty: the file does, unencrypted
}

// Put keeps a credential for a registry, in the helper that is configured for it or else in the file.
func (s *Store) Put(ctx context.Context, host string, c Credential) (Kept, error) {
	kept := Kept{File: s.main}
	err := s.change(func(f *file) error {
		kept.Helper = f.helper(host)
		if kept.Helper != "" {
			if err := runStore(ctx, kept.Helper, key(host), c); err != nil {
				return err
			}
			c = Credential{} // the file only remembers that there is one
		}
		f.remove(host)
		return f.put(key(host), c)
	})
	return kept, err
}

// Erase forgets what is known of a registry in the file that login changes and in the helpers that it names. It reports whether there was
// anything. others are files that still know the registry: podman's.
func (s *Store) Erase(ctx context.Context, host string) (found bool, others []string, err error) {
	err = s.change(func(f *file) error {
		found = f.remove(host)
		h := f.helper(host)
		if h == "" {
			return nil
		}
		var errs []error
		done := false
		for _, name := range append(helperNames(host), "http://"+host, "https://"+host) { // forms of old
			existed, err := runErase(ctx, h, name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			done = true
			found = found || existed
		}
		if done {
			return nil
		}
		return errors.Join(errs...)
	})
	for _, path := range s.others {
		if f, err := read(path); err == nil {
			if c, err := f.held(host, ""); err == nil && !c.Empty() {
				others = append(others, path)
			}
		}
	}
	return found, others, err
}

// Host is the registry that a user means who types s to login: a host, or an address of which only the host counts. Empty: docker.io.
func Host(s string) (string, error) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s, _, _ = strings.Cut(s, "/")
	switch s {
	case "", "index.docker.io", "registry-1.docker.io", hub:
		return hub, nil
	}
	r, err := ref.Parse(s + "/x")
	if err == nil && r.Domain == s {
		return s, nil
	}
	// A bare name is a repository's in a reference, but a host's here.
	if r, err := ref.Parse(s + ":443/x"); err == nil && r.Domain == s+":443" {
		return s, nil
	}
	return "", api.Errorf(api.InvalidArgument, "registry %q: want HOST or HOST:PORT", s)
}
