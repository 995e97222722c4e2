package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"brig/api"
	"brig/internal/image/ref"
)

// systemRules is the folder of the machine's registries.conf and registries.conf.d.
const systemRules = "/etc/containers"

// rules is registries.conf, containers-registries.conf(5) version 2, merged with its drop-ins.
type rules struct {
	Search   []string          `toml:"unqualified-search-registries"`
	Registry []rule            `toml:"registry"`
	Aliases  map[string]string `toml:"aliases"`
	Helpers  []string          `toml:"credential-helpers"`
	Old      any               `toml:"registries"` // version 1
}

// rule is a [[registry]].
type rule struct {
	Prefix   string       `toml:"prefix"`
	Location string       `toml:"location"`
	Insecure bool         `toml:"insecure"`
	Blocked  bool         `toml:"blocked"`
	ByDigest bool         `toml:"mirror-by-digest-only"`
	Mirrors  []mirrorRule `toml:"mirror"`

	from string
}

type mirrorRule struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	When     string `toml:"pull-from-mirror"`
}

// loadRules reads the main file and the drop-ins in the order of containers-registries.conf.d(5): $CONTAINERS_REGISTRIES_CONF, or else the
// user's file below config, or else the machine's; then the machine's drop-ins, unless the user has a main file; then the user's.
func loadRules(config string) (rules, error) {
	var all rules
	main, given := os.Getenv("CONTAINERS_REGISTRIES_CONF"), true
	dirs := []string{filepath.Join(systemRules, "registries.conf.d")}
	if main == "" {
		main, given = filepath.Join(systemRules, "registries.conf"), false
	}
	if config != "" {
		user := filepath.Join(config, "containers/registries.conf")
		if _, err := os.Stat(user); err == nil && !given {
			main, dirs = user, nil
		}
		dirs = append(dirs, user+".d")
	}
	if err := all.file(main, given); err != nil {
		return rules{}, err
	}
	for _, dir := range dirs {
		list, err := os.ReadDir(dir) // sorted
		if err != nil && !absent(err) {
			return rules{}, err
		}
		if len(list) > maxFiles {
			return rules{}, api.Errorf(api.InvalidArgument, "%s: more than %d files", dir, maxFiles)
		}
		for _, f := range list {
			if filepath.Ext(f.Name()) != ".conf" || f.IsDir() {
				continue
			}
			if err := all.file(filepath.Join(dir, f.Name()), true); err != nil {
				return rules{}, err
			}
		}
	}
	return all, nil
}

// file merges one file in. Later files win: lists as a whole, registries and aliases one by one.
func (all *rules) file(path string, must bool) error {
	b, err := read(path)
	if absent(err) && !must {
		return nil
	}
	if err != nil {
		return api.Errorf(api.InvalidArgument, "registries.conf: %w", err)
	}
	one, err := parseRules(b, path)
	if err != nil {
		return api.Errorf(api.InvalidArgument, "%s: %w", path, err)
	}
	if one.Search != nil {
		all.Search = one.Search
	}
	if one.Helpers != nil {
		all.Helpers = one.Helpers
	}
	for k, v := range one.Aliases {
		if all.Aliases == nil {
			all.Aliases = map[string]string{}
		}
		all.Aliases[k] = v
	}
	for _, r := range one.Registry {
		i := slices.IndexFunc(all.Registry, func(o rule) bool { return o.Prefix == r.Prefix })
		if i < 0 {
			all.Registry = append(all.Registry, r)
		} else {
			all.Registry[i] = r
		}
	}
	return nil
}

func parseRules(b []byte, from string) (rules, error) {
	var f rules
	if _, err := toml.Decode(string(b), &f); err != nil {
		return rules{}, err
	}
	if f.Old != nil {
		return rules{}, errors.New("[registries] is version 1 of the format: write it in version 2, with [[registry]] tables (containers-registries.conf(5))")
	}
	for _, host := range f.Search {
		if bad := checkPlace(host); bad != nil || strings.Contains(host, "/") {
			return rules{}, fmt.Errorf("unqualified-search-registries: %q: want HOST or HOST:PORT", host)
		}
	}
	for i := range f.Registry {
		r := &f.Registry[i]
		r.from = from
		if err := r.check(); err != nil {
			return rules{}, fmt.Errorf("[[registry]] %s: %w", r.Prefix, err)
		}
	}
	return f, nil
}

// check makes the fields of a rule canonical, or says what is wrong.
func (r *rule) check() error {
	r.Location, r.Prefix = strings.TrimRight(r.Location, "/"), strings.TrimRight(r.Prefix, "/")
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	wild, isWild := strings.CutPrefix(r.Prefix, "*.")
	switch {
	case r.Prefix == "":
		return errors.New("has neither prefix nor location")
	case isWild && strings.ContainsAny(wild, "/:@*"), !isWild && strings.Contains(r.Prefix, "*"):
		return errors.New("a wildcard stands before a host, as in *.example.com, and nothing after it")
	case strings.Contains(r.Prefix, "://"):
		return errors.New("prefix: want HOST/PATH without a scheme")
	}
	if r.Location != "" {
		if err := checkPlace(r.Location); err != nil {
			return fmt.Errorf("location: %w", err)
		}
	} else if !isWild {
		r.Location = r.Prefix
		if err := checkPlace(r.Location); err != nil && !r.Blocked && !strings.ContainsAny(r.Prefix, "@") {
			return fmt.Errorf("prefix: %w", err)
		}
	}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		m.Location = strings.TrimRight(m.Location, "/")
		if err := checkPlace(m.Location); err != nil {
			return fmt.Errorf("mirror: location: %w", err)
		}
		switch m.When {
		case "", "all", "digest-only", "tag-only":
		default:
			return fmt.Errorf("mirror %s: pull-from-mirror is %q: want all, digest-only or tag-only", m.Location, m.When)
		}
		if r.ByDigest && m.When != "" {
			return fmt.Errorf("mirror %s: pull-from-mirror and mirror-by-digest-only exclude each other", m.Location)
		}
	}
	return nil
}

// checkPlace holds HOST[:PORT][/PATH] against the grammar of references.
func checkPlace(s string) error {
	host, _, _ := strings.Cut(s, "/")
	if strings.Contains(s, "://") || host == "" {
		return fmt.Errorf("%q: want HOST[:PORT][/PATH] without a scheme", s)
	}
	_, err := ref.Parse(qualified(s) + "/x")
	return err
}

// qualified makes the first part of a place a host in the eyes of ref.Parse, also where it is a bare name.
func qualified(s string) string {
	host, rest, slash := strings.Cut(s, "/")
	if !strings.ContainsAny(host, ".:") && host != "localhost" {
		host += ":443"
	}
	if slash {
		return host + "/" + rest
	}
	return host
}

// match finds the rule with the longest prefix of r's name, and what of the name follows it.
func (all *rules) match(r ref.Ref) (*rule, string) {
	name := r.Domain
	if r.Path != "" {
		name = r.String()
	}
	var best *rule
	length := -1
	for i := range all.Registry {
		n := matches(name, all.Registry[i].Prefix)
		if n > length || n >= 0 && n == length && best.Prefix[0] == '*' { // a host's own name before a wildcard
			best, length = &all.Registry[i], n
		}
	}
	if best == nil {
		return nil, ""
	}
	return best, name[length:]
}

// matches returns how many bytes of name a prefix covers, or -1. It ends at a border: a host's port, a component, a tag or a digest.
func matches(name, prefix string) int {
	if wild, ok := strings.CutPrefix(prefix, "*"); ok {
		host, _, _ := strings.Cut(name, "/")
		bare := host
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			bare = host[:i]
		}
		if len(bare) > len(wild) && strings.HasSuffix(bare, wild) {
			return len(bare)
		}
		return -1
	}
	rest, ok := strings.CutPrefix(name, prefix)
	switch {
	case !ok:
		return -1
	case rest == "", rest[0] == '/', rest[0] == '@' && strings.Contains(prefix, "/"), rest[0] == ':' && strings.Contains(prefix, "/"):
		return len(prefix)
	}
	return -1
}

// endpoints are the mirrors of a rule that suit the reference, then its location. rest is what follows the prefix in r's name.
func (r *rule) endpoints(image ref.Ref, rest string, push bool) ([]Endpoint, error) {
	var all []Endpoint
	for _, m := range r.Mirrors {
		byDigest := image.Digest != ""
		if push || r.ByDigest && !byDigest || m.When == "digest-only" && !byDigest || m.When == "tag-only" && byDigest {
			continue
		}
		e, err := r.endpoint(m.Location, rest, image)
		if err != nil {
			return nil, err
		}
		e.Mirror = true
		e.insecure(m.Insecure)
		all = append(all, e)
	}
	e := direct(image.Domain, image.Path)
	if !push && r.Location != "" && r.Location != r.Prefix {
		var err error
		if e, err = r.endpoint(r.Location, rest, image); err != nil {
			return nil, err
		}
	}
	e.From = r.from
	e.insecure(r.Insecure)
	return append(all, e), nil
}

// endpoint is the image at another location.
func (r *rule) endpoint(location, rest string, image ref.Ref) (Endpoint, error) {
	host, _, _ := strings.Cut(location, "/")
	if wild, ok := strings.CutPrefix(r.Prefix, "*."); ok && wild != "" { // the host is replaced, with its port
		_, path, _ := strings.Cut(rest, "/")
		rest = "/" + path
	}
	there, err := ref.Parse(qualified(location + rest))
	if err != nil {
		return Endpoint{}, err
	}
	if there.Identifier() != image.Identifier() {
		return Endpoint{}, fmt.Errorf("location %s changes the tag or digest of %s", location, image)
	}
	if there.Domain == host+":443" {
		there.Domain = host
	}
	e := direct(there.Domain, there.Path)
	e.From = r.from
	return e, nil
}

// Helpers are the programs of registries.conf's credential-helpers that keep credentials, without its word for files.
func (c *Config) Helpers() []string {
	return slices.DeleteFunc(slices.Clone(c.rules.Helpers), func(s string) bool { return s == "containers-auth.json" })
}

// Search lists the registries for names without one; empty: docker.io alone.
func (c *Config) Search() []string {
	all := slices.Clone(c.rules.Search)
	for i, host := range all {
		all[i] = known(host)
	}
	return all
}

// Short says what a name without a registry means: the full references to try in order. typed is as the user wrote it; where he named the
// registry, or where nothing is configured, there is one, docker's.
func (c *Config) Short(typed string) ([]ref.Ref, error) {
	r, err := ref.Parse(typed)
	if err != nil || len(c.rules.Search) == 0 || !ref.Short(typed) {
		return []ref.Ref{r}, err
	}
	name := typed
	suffix := ""
	if i := strings.IndexAny(name, ":@"); i >= 0 {
		name, suffix = name[:i], name[i:]
	}
	if to := c.rules.Aliases[name]; to != "" {
		there, err := ref.Parse(to + suffix)
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "registries.conf: alias %s: %w", name, err)
		}
		return []ref.Ref{there}, nil
	}
	var all []ref.Ref
	for _, host := range c.rules.Search {
		there, err := ref.Parse(host + "/" + typed)
		if err != nil {
			return nil, err
		}
		all = append(all, there)
	}
	return all, nil
}
