package hosts

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"brig/api"
)

// hostTable is what hosts.toml says of a host: containerd's docs/hosts.md.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // string or strings
	Client       any            `toml:"client"` // string, strings, or pairs of strings
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // of string or strings
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// hostsFile reads the hosts.toml of a registry. Its last endpoint is the server; one without a host means the registry's own. nil: no file.
func (c *Config) hostsFile(host string) ([]Endpoint, error) {
	names := []string{host}
	if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.HasSuffix(host, "]") {
		names = []string{host[:i] + "_" + host[i+1:] + "_", host} // containerd's way to write a port in a folder's name
	}
	return c.firstFile(names)
}

// defaults is the hosts.toml for registries without one of their own.
func (c *Config) defaults(string) ([]Endpoint, error) { return c.firstFile([]string{"_default"}) }

func (c *Config) firstFile(names []string) ([]Endpoint, error) {
	for _, root := range c.hosts {
		for _, name := range names {
			file := filepath.Join(root, name, "hosts.toml")
			b, err := read(file)
			if absent(err) || err == nil && len(b) == 0 {
				continue
			}
			var all []Endpoint
			if err == nil {
				all, err = parseHosts(b, file)
			}
			if err != nil {
				return nil, api.Errorf(api.InvalidArgument, "%s: %w", file, err)
			}
			return all, nil
		}
	}
	return nil, nil
}

func parseHosts(b []byte, file string) ([]Endpoint, error) {
	var f struct {
		hostTable
		Server string               `toml:"server"`
		Host   map[string]hostTable `toml:"host"`
	}
	meta, err := toml.Decode(string(b), &f)
	if err != nil {
		return nil, err
	}
	var all []Endpoint
	seen := map[string]bool{}
	for _, k := range meta.Keys() { // in the order of the file, which is the order to try them
		if len(k) < 2 || k[0] != "host" || seen[k[1]] {
			continue
		}
		seen[k[1]] = true
		if k[1] == "" {
			return nil, errors.New(`host "": has no host`)
		}
		e, err := f.Host[k[1]].endpoint(k[1], file)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", k[1], err)
		}
		all = append(all, e)
	}
	e, err := f.endpoint(f.Server, file)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", f.Server, err)
	}
	return append(all, e), nil
}

// endpoint turns a table into a place. Paths are relative to the file's folder.
func (t hostTable) endpoint(address, file string) (Endpoint, error) {
	e := Endpoint{From: file, SkipVerify: t.SkipVerify}
	if err := t.address(&e, address); err != nil {
		return e, err
	}
	for _, c := range t.Capabilities {
		switch strings.ToLower(c) {
		case "pull":
			e.Pull = true
		case "resolve":
			e.Resolve = true
		case "push":
			e.Push = true
		default:
			return e, fmt.Errorf("capability %q: want pull, resolve or push", c)
		}
	}
	if len(t.Capabilities) == 0 {
		e.Pull, e.Resolve, e.Push = true, true, true
	}
	if t.DialTimeout != "" {
		d, err := time.ParseDuration(t.DialTimeout)
		if err != nil || d <= 0 {
			return e, fmt.Errorf("dial_timeout %q: want a time like 5s", t.DialTimeout)
		}
		e.DialTimeout = d
	}
	absolute := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(filepath.Dir(file), p)
	}
	files, err := words("ca", t.CA)
	if err != nil {
		return e, err
	}
	for _, p := range files {
		e.CA = append(e.CA, absolute(p))
	}
	if e.Client, err = pairs(t.Client, absolute); err != nil {
		return e, err
	}
	for k, v := range t.Header {
		all, err := words("header "+k, v)
		if err != nil {
			return e, err
		}
		if e.Header == nil {
			e.Header = http.Header{}
		}
		for _, s := range all {
			if strings.ContainsAny(k+s, "\r\n\x00") || k == "" {
				return e, fmt.Errorf("header %q: a line break or nothing in it", k)
			}
			e.Header.Add(k, s)
		}
	}
	return e, nil
}

// address reads https://host[:port][/path]. Below the path the API is at /v2, unless override_path says that the path is the API.
func (t hostTable) address(e *Endpoint, s string) error {
	if s == "" {
		return nil
	}
	if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return err
	case u.Host == "" || u.Hostname() == "":
		return errors.New("has no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("want https://HOST[:PORT][/PATH]")
	}
	e.Host = u.Host
	e.Root = path.Clean("/" + u.Path)
	if !t.OverridePath && !strings.HasSuffix(e.Root, "/v2") {
		e.Root = path.Join(e.Root, "v2")
	}
	if e.Root == "/" {
		e.Root = ""
	}
	tls := t.CA != nil || t.Client != nil || t.SkipVerify != nil
	switch {
	case u.Scheme == "https":
		e.Schemes = []string{"https"}
	case tls && u.Port() != "80" && u.Port() != "": // containerd tries TLS first where it is configured
		e.Schemes = []string{"https", "http"}
	default:
		e.Schemes = []string{"http"}
	}
	return nil
}

func words(what string, v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		all := make([]string, 0, len(v))
		for _, w := range v {
			s, ok := w.(string)
			if !ok {
				return nil, fmt.Errorf("%s: want a string or strings", what)
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, fmt.Errorf("%s: want a string or strings", what)
}

// pairs reads client: "both.pem", ["both.pem"], or [["client.cert", "client.key"]].
func pairs(v any, absolute func(string) string) ([][2]string, error) {
	bad := errors.New("client: want a file, files, or pairs of certificate and key")
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return [][2]string{{absolute(v), ""}}, nil
	case []any:
		var all [][2]string
		for _, one := range v {
			switch one := one.(type) {
			case string:
				all = append(all, [2]string{absolute(one), ""})
			case []any:
				p, err := words("client", one)
				if err != nil || len(p) != 2 {
					return nil, bad
				}
				all = append(all, [2]string{absolute(p[0]), absolute(p[1])})
			default:
				return nil, bad
			}
		}
		return all, nil
	}
	return nil, bad
}
