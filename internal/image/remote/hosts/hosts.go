// Package hosts says where a registry's repositories are read from, and how each place is spoken to, from the files that containers and
// containerd have for it. doc/registries.md is the page for users.
//
// registries.conf decides where: the [[registry]] with the longest prefix of the image's name gives mirrors and a location. Where none
// matches, hosts.toml of the registry's folder in containerd's certs.d decides, else that of _default, else the registry itself is the only
// place. Never both: the order of mirrors from two files would be nobody's.
//
// certs.d decides how, whichever file named a place: authorities and client certificates are taken from the folder of the place's own host.
//
// What these files say is the administrator's word and may weaken the rules for the one host that it names: plain HTTP, a certificate that is
// not verified.
package hosts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"brig/api"
	"brig/internal/image/ref"
)

const (
	// maxFile bounds a configuration file, in bytes, and maxFiles a folder of them.
	maxFile  = 1 << 20
	maxFiles = 1000
	// hubHost is where docker.io answers.
	hubHost = "registry-1.docker.io"
)

// Endpoint is one place that has a repository.
type Endpoint struct {
	Host    string   // host[:port]
	Schemes []string // tried in order: https, http
	Root    string   // path of the API: /v2
	Repo    string   // the repository's path there; empty: the whole registry is meant
	Mirror  bool     // not the registry itself
	Account string   // the registry whose credentials are for it

	Resolve, Pull, Push bool // what it may be asked for: a tag's digest, content, to store

	Insecure    bool        // plain HTTP or an unverified certificate is allowed, of token servers and redirects too
	SkipVerify  *bool       // of its certificate; nil: as for any registry, loopback is not verified unless an authority is named
	CA          []string    // files of authorities beside the system's
	Client      [][2]string // files of certificate and key; the key's is empty where one file has both
	Header      http.Header // sent to this host only
	NS          string      // the registry that a mirror stands for, told as ?ns=
	DialTimeout time.Duration
	From        string // the file that names it; empty: none does
}

// Name is the place as messages call it.
func (e *Endpoint) Name() string {
	if e.Mirror {
		return "mirror " + e.Host
	}
	return "registry " + known(e.Host)
}

// known is the registry that answers at a host: docker.io, host:port.
func known(host string) string {
	if host == hubHost || host == "index.docker.io" {
		return ref.DefaultDomain
	}
	return host
}

// Config is what the machine and the user have set.
type Config struct {
	rules   rules
	hosts   []string // folders of hosts.toml
	certs   []string // folders of docker's and podman's certificates
	certDir string   // --cert-dir: for every registry of this command
}

// Load reads registries.conf and its drop-ins, and remembers where the rest is. certDir is --cert-dir, a folder that must be there.
func Load(certDir string) (*Config, error) {
	home, _ := os.UserHomeDir()
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	c := &Config{certDir: certDir}
	if certDir != "" {
		if _, err := os.ReadDir(certDir); err != nil {
			return nil, api.Errorf(api.InvalidArgument, "--cert-dir: %w", err)
		}
	}
	for _, base := range []string{config, "/etc"} {
		if base == "" {
			continue
		}
		c.hosts = append(c.hosts, filepath.Join(base, "containerd/certs.d"))
		c.certs = append(c.certs, filepath.Join(base, "containers/certs.d"), filepath.Join(base, "containerd/certs.d"), filepath.Join(base, "docker/certs.d"))
	}
	var err error
	c.rules, err = loadRules(config)
	return c, err
}

// Endpoints lists the places that r may be read from, in the order to try them; the registry itself is the last. With push it is the only one.
func (c *Config) Endpoints(r ref.Ref, push bool) ([]Endpoint, error) {
	all, err := c.places(r, push)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if err := c.certificates(&all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Registry is the place of a whole registry, for login and search.
func (c *Config) Registry(host string) (Endpoint, error) {
	all, err := c.Endpoints(ref.Ref{Domain: host}, true)
	if err != nil {
		return Endpoint{}, err
	}
	return all[len(all)-1], nil
}

func (c *Config) places(r ref.Ref, push bool) ([]Endpoint, error) {
	rule, rest := c.rules.match(r)
	if rule != nil && rule.Blocked {
		return nil, api.Errorf(api.Unauthorized, "registry %s is blocked in %s", rule.Prefix, rule.from)
	}
	if rule != nil && (rule.Location != "" && rule.Location != rule.Prefix || len(rule.Mirrors) > 0) {
		all, err := rule.endpoints(r, rest, push)
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "%s: registry %s: %w", rule.from, rule.Prefix, err)
		}
		for i := range all {
			own, err := c.hostsFile(all[i].Host)
			if err != nil {
				return nil, err
			}
			all[i].how(own)
		}
		return all, nil
	}
	own, err := c.hostsFile(r.Domain)
	if err != nil {
		return nil, err
	}
	if own == nil {
		own, err = c.defaults(r.Domain)
		if err != nil {
			return nil, err
		}
	}
	var all []Endpoint
	for i, e := range own {
		last := i == len(own)-1
		if e.Host == "" {
			e.address(r.Domain)
		}
		e.Repo, e.Mirror, e.Account = r.Path, !last, r.Domain
		if e.Mirror {
			e.Account = known(e.Host) // a mirror has accounts of its own
		}
		if known(e.Host) != r.Domain {
			e.NS = r.Domain
		}
		if push && (!last || !e.Push) {
			continue
		}
		all = append(all, e)
	}
	if own == nil {
		all = []Endpoint{direct(r.Domain, r.Path)}
	}
	if len(all) == 0 {
		return nil, api.Errorf(api.Unsupported, "registry %s: %s does not let its server be pushed to", r.Domain, own[len(own)-1].From)
	}
	if rule != nil {
		last := &all[len(all)-1]
		last.insecure(rule.Insecure)
	}
	return all, nil
}

// direct is a registry of which no file says more.
func direct(host, repo string) Endpoint {
	e := Endpoint{Repo: repo, Resolve: true, Pull: true, Push: true}
	e.address(host)
	return e
}

// address makes e the place of a registry by its name, with its own API.
func (e *Endpoint) address(host string) {
	e.Host, e.Root, e.Account = host, "/v2", host
	if host == ref.DefaultDomain {
		e.Host = hubHost
	}
	e.Schemes = []string{"https"}
	if Loopback(e.Host) {
		e.Schemes = []string{"https", "http"}
	}
}

func (e *Endpoint) insecure(yes bool) {
	if yes {
		e.Insecure, e.Schemes = true, []string{"https", "http"}
	}
}

// how takes over what the hosts.toml of a place's own host says of that host itself.
func (e *Endpoint) how(own []Endpoint) {
	if len(own) == 0 {
		return
	}
	server := own[len(own)-1]
	if server.Host != "" && server.Host != e.Host {
		return
	}
	e.CA, e.Client, e.SkipVerify, e.Header, e.DialTimeout = server.CA, server.Client, server.SkipVerify, server.Header, server.DialTimeout
}

// certificates adds those of certs.d and --cert-dir.
func (c *Config) certificates(e *Endpoint) error {
	for _, root := range c.certs {
		names := []string{e.Host}
		if e.Host == hubHost {
			names = append(names, ref.DefaultDomain)
		}
		for _, name := range names {
			if err := e.folder(filepath.Join(root, name)); err != nil {
				return err
			}
		}
	}
	if c.certDir != "" {
		return e.folder(c.certDir)
	}
	return nil
}

// folder reads a folder as docker lays it out: NAME.crt is an authority, NAME.cert and NAME.key are a client's certificate and key.
func (e *Endpoint) folder(dir string) error {
	list, err := os.ReadDir(dir)
	if absent(err) || errors.Is(err, fs.ErrPermission) { // podman passes over what a user may not see, too
		return nil
	}
	if err != nil {
		return err
	}
	if len(list) > maxFiles {
		return api.Errorf(api.InvalidArgument, "%s: more than %d files", dir, maxFiles)
	}
	for _, f := range list {
		path := filepath.Join(dir, f.Name())
		base := strings.TrimSuffix(path, filepath.Ext(path))
		switch filepath.Ext(path) {
		case ".crt":
			e.CA = append(e.CA, path)
		case ".cert":
			if _, err := os.Stat(base + ".key"); err != nil {
				return api.Errorf(api.InvalidArgument, "missing key %s for client certificate %s: docker's rule is NAME.cert beside NAME.key, and NAME.crt for authorities", base+".key", path)
			}
			e.Client = append(e.Client, [2]string{path, base + ".key"})
		case ".key":
			if _, err := os.Stat(base + ".cert"); err != nil {
				return api.Errorf(api.InvalidArgument, "missing client certificate %s for key %s", base+".cert", path)
			}
		}
	}
	return nil
}

func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// read reads a small file whole; absent files are an error that absent knows.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: is larger than %d bytes", path, maxFile)
	}
	return b, err
}
