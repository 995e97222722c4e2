package oci

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"brig/api"
)

// kind is what a flag's value is.
type kind int

const (
	isBool kind = iota
	isString
	isInt
	isList // may be given several times
	isDuration
)

// flag is one flag of a verb; names are the long one and, if there is one, the short one, without dashes.
type flag struct {
	name, short string
	kind        kind
	help        string
}

// values are the flags that were given.
type values map[string][]string

// parse takes flags as runc's command line does: -b DIR, --bundle DIR, --bundle=DIR, also with one dash; before or behind the arguments unless
// firstArgEnds, as for exec, whose arguments have flags of their own. "--" ends them.
func parse(verb string, flags []flag, argv []string, firstArgEnds bool) (values, []string, error) {
	v := values{}
	var args []string
	for len(argv) > 0 {
		word := argv[0]
		argv = argv[1:]
		if word == "--" {
			return v, append(args, argv...), nil
		}
		if len(word) < 2 || word[0] != '-' {
			args = append(args, word)
			if firstArgEnds {
				return v, append(args, argv...), nil
			}
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(word[1:], "-"), "=")
		f := find(flags, name)
		if f == nil {
			return nil, nil, api.Errorf(api.InvalidArgument, "%s: flag %s is not known: see brig-oci %s --help", verb, dashed(name), strings.TrimSpace(verb))
		}
		if f.kind == isBool {
			if !given {
				value = "true"
			}
		} else if !given {
			if len(argv) == 0 {
				return nil, nil, api.Errorf(api.InvalidArgument, "%s: flag %s needs a value", verb, dashed(name))
			}
			value, argv = argv[0], argv[1:]
		}
		if err := f.check(value); err != nil {
			return nil, nil, api.Errorf(api.InvalidArgument, "%s: flag %s: %w", verb, dashed(name), err)
		}
		if f.kind != isList {
			delete(v, f.name)
		}
		v[f.name] = append(v[f.name], value)
	}
	return v, args, nil
}

func find(flags []flag, name string) *flag {
	for i := range flags {
		if f := &flags[i]; f.name == name || f.short == name && name != "" {
			return f
		}
	}
	return nil
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func (f *flag) check(value string) error {
	var err error
	switch f.kind {
	case isBool:
		_, err = strconv.ParseBool(value)
	case isInt:
		_, err = strconv.ParseInt(value, 10, 64)
	case isDuration:
		_, err = time.ParseDuration(value)
	}
	if err != nil {
		return fmt.Errorf("%q is not %s", value, [...]string{isBool: "true or false", isInt: "a whole number", isDuration: "a time such as 5s"}[f.kind])
	}
	return nil
}

func (v values) has(name string) bool { return len(v[name]) > 0 }

func (v values) str(name string) string {
	if s := v[name]; len(s) > 0 {
		return s[0]
	}
	return ""
}

func (v values) on(name string) bool {
	b, _ := strconv.ParseBool(v.str(name)) // checked before
	return b
}

func (v values) num(name string) int64 {
	n, _ := strconv.ParseInt(v.str(name), 10, 64) // checked before
	return n
}

func (v values) list(name string) []string { return v[name] }

func (v values) duration(name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(v.str(name)); err == nil {
		return d
	}
	return otherwise
}

// describe prints a list of flags.
func describe(w io.Writer, flags []flag) {
	for i := range flags {
		f := &flags[i]
		names := "--" + f.name
		if f.short != "" {
			names += ", -" + f.short
		}
		if f.kind != isBool {
			names += " VALUE"
		}
		fmt.Fprintf(w, "  %-28s %s\n", names, f.help)
	}
}
