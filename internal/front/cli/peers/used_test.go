package peers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"brig/internal/front/cli/peers"
)

// top is the folder of the project.
const top = "../../../.."

// TestUsed: each flag that works is used in a story or in a named Go test, with its verb.
func TestUsed(t *testing.T) {
	used := uses(t)
	for verb, flags := range peers.Brig() {
		for _, f := range flags {
			key := verb + " --" + f.Name
			switch {
			case (verb == "create" || verb == "selftest escape") && used["run --"+f.Name]: // one declaration
			case used[key]:
				if elsewhere[key] != "" {
					t.Errorf("%s: a test uses it, take it off the list", key)
				}
			case elsewhere[key] == "":
				t.Errorf("%s: neither a story nor a Go test uses it", key)
			}
		}
	}
}

// elsewhere are flags that are tested otherwise than by a command line in a test.
var elsewhere = map[string]string{}

// uses are the flags of all command lines in stories and Go tests: "ps --all".
func uses(t *testing.T) map[string]bool {
	t.Helper()
	used := map[string]bool{}
	flags := peers.Brig()
	canonical := peers.CanonicalNames()
	line := func(words []string) {
		verb, before, rest := verbOf(words, flags, canonical)
		for _, f := range flags["brig"] {
			if slices.ContainsFunc(before, func(w string) bool { return w == "--"+f.Name || f.Short != "" && w == "-"+f.Short }) {
				used["brig --"+f.Name] = true
			}
		}
		for _, w := range rest {
			if verb == "" || w == "--" {
				return
			}
			for _, f := range flags[verb] {
				short := f.Short != "" && len(w) > 1 && w[0] == '-' && w[1] != '-' && strings.Contains(shorts(w, flags[verb]), f.Short)
				if short || w == "--"+f.Name || strings.HasPrefix(w, "--"+f.Name+"=") {
					used[verb+" --"+f.Name] = true
				}
			}
		}
	}
	stories, err := filepath.Glob(top + "/test/script/testdata/*.txtar")
	if err != nil || len(stories) == 0 {
		t.Fatal("no stories", err)
	}
	for _, s := range stories {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			words := strings.Fields(strings.NewReplacer("'", "", `"`, "", "$(", " ").Replace(l))
			if strings.HasPrefix(l, "#") {
				continue
			}
			for i, w := range words {
				if w == "brig" || strings.HasSuffix(w, "/brig") {
					line(words[i+1:])
				}
			}
		}
	}
	for _, dir := range []string{"internal/front/cli", "test", "internal/engine", "cmd"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/peers/") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					line(literals(n.Args))
				case *ast.CompositeLit:
					line(literals(n.Elts))
					for _, e := range n.Elts { // a whole line in a string of a table
						line(literals([]ast.Expr{e}))
						if kv, ok := e.(*ast.KeyValueExpr); ok {
							line(literals([]ast.Expr{kv.Key}))
							line(literals([]ast.Expr{kv.Value}))
						}
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return used
}

// literals are the words of the string constants among list, from a verb on.
func literals(list []ast.Expr) (words []string) {
	for _, e := range list {
		ast.Inspect(e, func(n ast.Node) bool {
			if _, nested := n.(*ast.CompositeLit); nested && len(list) > 1 {
				return true
			}
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil {
					words = append(words, strings.Fields(s)...)
				}
			}
			return true
		})
	}
	return words
}

// verbOf finds the first verb of words, and what stands before and behind it.
func verbOf(words []string, flags map[string][]peers.Flag, canonical map[string]string) (verb string, before, behind []string) {
	for i := range words {
		for n := min(3, len(words)-i); n > 0; n-- {
			name := strings.Join(words[i:i+n], " ")
			if c := canonical[name]; c != "" {
				name = c
			}
			if _, ok := flags[name]; ok && name != "brig" {
				return name, words[:i], words[i+n:]
			}
		}
	}
	return "", words, nil
}

// shorts are the letters of a word like -it that are flags: up to the first that takes a value.
func shorts(word string, flags []peers.Flag) string {
	for i, c := range word[1:] {
		at := slices.IndexFunc(flags, func(f peers.Flag) bool { return f.Short == string(c) })
		if at < 0 {
			return word[1 : 1+i]
		}
		if flags[at].Value {
			return word[1 : 2+i]
		}
	}
	return word[1:]
}
