package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"brig/api"
)

// parseEnv takes NAME=VALUE as it is and looks up a bare NAME among Brig's own variables. A name that is not set there stays bare
// and unsets the image's.
func parseEnv(s string) (string, error) {
	name, _, found := strings.Cut(s, "=")
	if name == "" {
		return "", errors.New("invalid environment variable: " + s)
	}
	if !found {
		if v, ok := os.LookupEnv(name); ok {
			return name + "=" + v, nil
		}
	}
	return s, nil
}

// environment joins the variables of files and flags; flags come later and win.
func environment(files, flags []string) ([]string, error) {
	var env []string
	for _, file := range files {
		err := readLines(file, func(line string) error {
			name, _, found := strings.Cut(line, "=")
			if err := checkName("variable", name, line); err != nil {
				return err
			}
			if !found { // only flags unset
				v, ok := os.LookupEnv(name)
				if !ok {
					return nil
				}
				line = name + "=" + v
			}
			env = append(env, line)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return append(env, flags...), nil
}

// labels joins the labels of files and flags; flags come later and win. A label without a value has the empty one.
func labels(files, flags []string) (map[string]string, error) {
	all := make(map[string]string)
	for _, file := range files {
		err := readLines(file, func(line string) error {
			key, val, _ := strings.Cut(line, "=")
			if err := checkName("label", key, line); err != nil {
				return err
			}
			all[key] = val
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, label := range flags {
		key, val, _ := strings.Cut(label, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid label %q: empty name", label)
		}
		all[key] = val
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

func checkName(what, name, line string) error {
	if name == "" {
		return fmt.Errorf("no %s name on line '%s'", what, line)
	}
	if strings.ContainsFunc(name, unicode.IsSpace) {
		return fmt.Errorf("%s '%s' contains whitespaces", what, name)
	}
	return nil
}

// readLines calls use for each line of a file of variables or labels, in docker's format: UTF-8, perhaps with a byte order mark;
// blanks before a name do not count, empty lines and those that begin with # are skipped, nothing is quoted.
func readLines(file string, use func(line string) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		text := scan.Text()
		if !utf8.ValidString(text) {
			return fmt.Errorf("%s: line %d: not UTF-8", file, n)
		}
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		line := strings.TrimLeftFunc(text, unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := use(line); err != nil {
			return fmt.Errorf("%s: line %d: %w", file, n, err)
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// parseUlimit reads NAME=SOFT[:HARD]; -1 means unlimited.
func parseUlimit(s string) (api.Ulimit, error) {
	name, limits, found := strings.Cut(s, "=")
	u := api.Ulimit{Name: name}
	if !found {
		return u, fmt.Errorf("invalid ulimit %q: use NAME=SOFT or NAME=SOFT:HARD", s)
	}
	switch name {
	case "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
		"sigpending", "stack": // those of getrlimit(2) that docker knows
	default:
		return u, fmt.Errorf("invalid ulimit type: %s", name)
	}
	soft, hard, two := strings.Cut(limits, ":")
	var err error
	if u.Soft, err = strconv.ParseInt(soft, 10, 64); err != nil || u.Soft < -1 {
		return u, fmt.Errorf("invalid ulimit %q: soft limit %q is not a number", s, soft)
	}
	if u.Hard = u.Soft; two {
		if u.Hard, err = strconv.ParseInt(hard, 10, 64); err != nil || u.Hard < -1 {
			return u, fmt.Errorf("invalid ulimit %q: hard limit %q is not a number", s, hard)
		}
	}
	if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
		return u, fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %s", s)
	}
	return u, nil
}
