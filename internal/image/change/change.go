// Package change applies Dockerfile instructions to the config of an image: what commit and import take with --change.
//
// The instructions are those that docker takes there: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and
// WORKDIR, with their JSON and shell forms, quotes, and variables of the config's own environment. Anything else is refused by name.
package change

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// Limits on the words of an instruction, so that no config grows past what a manifest may be.
const (
	maxText  = 64 << 10 // bytes of all instructions
	maxGrown = 1 << 20  // bytes of all words, expanded
	maxPorts = 50_000   // ranges counted out: no reader of Brig's takes more members of an object, see package image
)

// Config is an image's config with docker's additions, as it is written to JSON.
type Config struct {
	imagespec.ImageConfig
	api.ImageExtra
	grown *int // bytes of words so far, while instructions are carried out
}

// Apply carries out the instructions in their order. Each text may hold several lines. The config is as it was where it fails.
func Apply(c *Config, texts []string) error {
	all := strings.Join(texts, "\n")
	if len(all) > maxText {
		return api.Errorf(api.InvalidArgument, "--change: more than %d bytes of instructions", maxText)
	}
	next := c.clone()
	next.grown = new(int)
	for _, line := range lines(all) {
		name, rest, _ := cutWord(line)
		if err := next.instruction(strings.ToUpper(name), strings.TrimSpace(rest)); err != nil {
			return api.Errorf(api.InvalidArgument, "--change %q: %w", line, err)
		}
	}
	next.grown = nil
	*c = next
	return nil
}

// clone shares no map or slice that an instruction changes.
func (c *Config) clone() Config {
	n := *c
	n.Env, n.OnBuild = slices.Clone(c.Env), slices.Clone(c.OnBuild)
	n.Labels, n.Volumes, n.ExposedPorts = maps.Clone(c.Labels), maps.Clone(c.Volumes), maps.Clone(c.ExposedPorts)
	return n
}

// lines splits a text to instructions: comments and empty lines are none, a backslash at the end continues one.
func lines(text string) []string {
	var all []string
	var open strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if more, ok := strings.CutSuffix(line, `\`); ok {
			open.WriteString(more)
			continue
		}
		all = append(all, open.String()+line)
		open.Reset()
	}
	if open.Len() > 0 {
		all = append(all, open.String())
	}
	return all
}

func cutWord(s string) (word, rest string, ok bool) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func (c *Config) instruction(name, rest string) error {
	if rest == "" && (name != "CMD" && name != "ENTRYPOINT") {
		switch name {
		case "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR":
			return fmt.Errorf("%s requires an argument", name)
		}
	}
	switch name {
	case "CMD":
		c.Cmd = c.command(rest)
		c.ArgsEscaped = false //nolint:staticcheck // an image of Windows may have it
	case "ENTRYPOINT":
		c.Entrypoint = c.command(rest)
	case "ENV":
		return c.pairs(name, rest, c.setEnv)
	case "LABEL":
		return c.pairs(name, rest, func(k, v string) error {
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[k] = v
			return nil
		})
	case "EXPOSE":
		return c.expose(rest)
	case "HEALTHCHECK":
		return c.healthcheck(rest)
	case "ONBUILD":
		return c.onBuild(rest)
	case "STOPSIGNAL":
		return c.one(name, rest, &c.StopSignal)
	case "USER":
		return c.one(name, rest, &c.User)
	case "VOLUME":
		return c.volume(rest)
	case "WORKDIR":
		return c.workdir(rest)
	default:
		return fmt.Errorf("%s is not an instruction that changes a config: use CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR", name)
	}
	return nil
}

// command reads the JSON form of a command line, or gives another to a shell.
func (c *Config) command(s string) []string {
	if list, ok := jsonList(s); ok {
		return list
	}
	if s == "" {
		return nil
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), s)
}

// jsonList reads a list of strings. What is none is taken as a command line, as by docker.
func jsonList(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	list := []string{}
	if json.Unmarshal([]byte(s), &list) != nil || list == nil {
		return nil, false
	}
	return list, true
}

// pairs reads NAME=VALUE … or, as of old, NAME and the rest of the line.
func (c *Config) pairs(what, s string, set func(k, v string) error) error {
	first, rest, two := cutWord(s)
	if !strings.Contains(first, "=") {
		rest = strings.TrimSpace(rest)
		if !two || rest == "" {
			return fmt.Errorf("%s: %q: use NAME=VALUE", what, s)
		}
		k, err := c.expand(first)
		if err != nil {
			return err
		}
		v, err := c.expand(rest)
		if err != nil {
			return err
		}
		return set(k, v)
	}
	words, err := split(s)
	if err != nil {
		return err
	}
	env := *c // all words of one instruction see the environment before it
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("%s: %q: use NAME=VALUE; a value with blanks goes in quotes", what, w)
		}
		if k, err = env.expand(k); err != nil {
			return err
		}
		if v, err = env.expand(v); err != nil {
			return err
		}
		if k == "" {
			return fmt.Errorf("%s: %q: the name is empty", what, w)
		}
		if err := set(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) setEnv(k, v string) error {
	if strings.ContainsRune(k+v, 0) {
		return fmt.Errorf("ENV: a NUL in %q", k)
	}
	env := slices.Clone(c.Env)
	i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, k+"=") })
	if i < 0 {
		c.Env = append(env, k+"="+v)
	} else {
		env[i] = k + "=" + v
		c.Env = env
	}
	return nil
}

// one reads an argument that is one word.
func (c *Config) one(name, s string, to *string) error {
	words, err := split(s)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return fmt.Errorf("%s requires exactly one argument", name)
	}
	v, err := c.expand(words[0])
	if err == nil && v == "" {
		err = fmt.Errorf("%s: %q is empty", name, s)
	}
	if err == nil {
		*to = v
	}
	return err
}

func (c *Config) workdir(s string) error {
	dir, err := c.expand(s)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", c.WorkingDir, dir)
	}
	c.WorkingDir = path.Clean(dir)
	return nil
}

func (c *Config) volume(s string) error {
	list, ok := jsonList(s)
	if !ok {
		words, err := split(s)
		if err != nil {
			return err
		}
		list = words
	}
	if len(list) == 0 {
		return fmt.Errorf("VOLUME requires at least one path")
	}
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, v := range list {
		v, err := c.expand(v)
		if err != nil {
			return err
		}
		if v = strings.TrimSpace(v); v == "" {
			return fmt.Errorf("VOLUME: a path is empty")
		}
		c.Volumes[v] = struct{}{}
	}
	return nil
}

func (c *Config) expose(s string) error {
	words, err := split(s)
	if err != nil {
		return err
	}
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for _, w := range words {
		if w, err = c.expand(w); err != nil {
			return err
		}
		from, to, protocol, err := ports(w)
		if err != nil {
			return err
		}
		if many := to - from; many > len(c.ExposedPorts) { // a config has no ranges, and may have to have 65535 names: then room for all is made at once
			if many >= maxPorts {
				return fmt.Errorf("EXPOSE: more than %d ports", maxPorts)
			}
			had := c.ExposedPorts
			c.ExposedPorts = make(map[string]struct{}, len(had)+many+1)
			maps.Copy(c.ExposedPorts, had)
		}
		for p := from; p <= to; p++ {
			if len(c.ExposedPorts) >= maxPorts {
				return fmt.Errorf("EXPOSE: more than %d ports", maxPorts)
			}
			c.ExposedPorts[strconv.Itoa(p)+"/"+protocol] = struct{}{}
		}
	}
	return nil
}

// ports reads PORT[-PORT][/tcp|udp|sctp].
func ports(s string) (from, to int, protocol string, err error) {
	spec, protocol, _ := strings.Cut(s, "/")
	if protocol = strings.ToLower(protocol); protocol == "" {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return 0, 0, "", fmt.Errorf("EXPOSE: %q: the protocol must be tcp, udp or sctp", s)
	}
	first, last, ranged := strings.Cut(spec, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	b := a
	if err == nil && ranged {
		b, err = strconv.ParseUint(last, 10, 16)
	}
	if err != nil || a == 0 || b < a {
		return 0, 0, "", fmt.Errorf("EXPOSE: %q: use PORT[-PORT][/PROTOCOL] with ports from 1 to 65535", s)
	}
	return int(a), int(b), protocol, nil
}

// onBuild keeps an instruction for who builds on the image.
func (c *Config) onBuild(s string) error {
	switch name, _, _ := cutWord(s); strings.ToUpper(name) {
	case "ONBUILD":
		return fmt.Errorf("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "FROM", "MAINTAINER":
		return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(name))
	}
	c.OnBuild = append(c.OnBuild, s)
	return nil
}

// healthcheck reads NONE, or options and CMD with a command in either form.
func (c *Config) healthcheck(s string) error {
	h := &api.Healthcheck{}
	for {
		word, rest, _ := cutWord(s)
		if !strings.HasPrefix(word, "--") {
			break
		}
		if err := healthOption(h, word); err != nil {
			return err
		}
		s = strings.TrimSpace(rest)
	}
	kind, rest, _ := cutWord(s)
	rest = strings.TrimSpace(rest)
	switch strings.ToUpper(kind) {
	case "NONE":
		if rest != "" {
			return fmt.Errorf("HEALTHCHECK NONE takes no arguments")
		}
		h.Test = []string{"NONE"}
	case "CMD":
		if list, ok := jsonList(rest); ok && len(list) > 0 {
			h.Test = append([]string{"CMD"}, list...)
		} else if rest != "" && !ok {
			h.Test = []string{"CMD-SHELL", rest}
		} else {
			return fmt.Errorf("HEALTHCHECK CMD: missing command")
		}
	default:
		return fmt.Errorf("HEALTHCHECK: unknown type %q: try CMD or NONE", kind)
	}
	c.Healthcheck = h
	return nil
}

func healthOption(h *api.Healthcheck, word string) error {
	name, value, ok := strings.Cut(strings.TrimPrefix(word, "--"), "=")
	if !ok {
		return fmt.Errorf("HEALTHCHECK: %s: use %s=VALUE", word, word)
	}
	if name == "retries" {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return fmt.Errorf("HEALTHCHECK: --retries: %q is not a number", value)
		}
		h.Retries = int(n)
		return nil
	}
	to := map[string]*time.Duration{"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval}[name]
	if to == nil {
		return fmt.Errorf("HEALTHCHECK: unknown option --%s: use --interval, --timeout, --start-period, --start-interval or --retries", name)
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Millisecond && d != 0 {
		return fmt.Errorf("HEALTHCHECK: --%s: %q: use a duration of a millisecond or more, as in 30s", name, value)
	}
	*to = d
	return nil
}
