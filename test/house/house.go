// Package house keeps the house in order: its tests hold the tree against the rules that doc/ writes down, so that a rule is either
// kept or changed where everybody reads it.
package house

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"strings"
)

// root is the top of the tree, as seen from this folder, where go test runs.
const root = "../.."

// layers is doc/layers.txt.
type layers struct {
	may    map[string][]string // room -> rooms that it may import
	tests  map[string][]string // the same for _test.go files, beyond may; "" for every room
	forbid map[string][]string // program -> packages that it must not link
}

func readLayers(file string) (*layers, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &layers{may: map[string][]string{}, tests: map[string][]string{}, forbid: map[string][]string{}}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, rest, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%s:%d: no colon", file, n)
		}
		key = strings.TrimSpace(key)
		into := l.may
		if program, ok := strings.CutPrefix(key, "forbid "); ok {
			key, into = strings.TrimSpace(program), l.forbid
		} else if room, ok := strings.CutSuffix(key, " (tests)"); ok {
			key, into = room, l.tests
		} else if key == "tests" {
			key, into = "", l.tests
		}
		if _, twice := into[key]; twice {
			return nil, fmt.Errorf("%s:%d: %s stands there twice", file, n, key)
		}
		into[key] = strings.Fields(rest)
	}
	return l, sc.Err()
}

// room returns the longest line that dir, relative to the top, belongs to; "" if there is none.
func (l *layers) room(dir string) string {
	for d := dir; d != "." && d != "/"; d = path.Dir(d) {
		if _, ok := l.may[d]; ok {
			return d
		}
	}
	return ""
}

// allows says whether a file of folder from may import folder to.
func (l *layers) allows(from, to string, test bool) bool {
	a, b := l.room(from), l.room(to)
	if a == "" || b == "" {
		return false
	}
	if a == b {
		return true
	}
	lists := [][]string{l.may[a]}
	if test {
		lists = append(lists, l.tests[""], l.tests[a])
	}
	for _, list := range lists {
		for _, r := range list {
			if r == b {
				return true
			}
		}
	}
	return false
}
