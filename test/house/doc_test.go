package house

import (
	"bytes"
	"go/ast"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, rel string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, rel))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func exists(rel string) bool {
	_, err := os.Stat(filepath.Join(root, rel))
	return err == nil
}

// declared reports whether the Go file rel declares name: a function, method, type, constant or variable.
func declared(files []goFile, rel, name string) bool {
	for _, f := range files {
		if f.path != rel {
			continue
		}
		found := false
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch d := n.(type) {
			case *ast.FuncDecl:
				found = found || d.Name.Name == name
				return false
			case *ast.TypeSpec:
				found = found || d.Name.Name == name
			case *ast.ValueSpec:
				for _, n := range d.Names {
					found = found || n.Name == name
				}
			}
			return true
		})
		return found
	}
	return false
}

// TestPagesNameOnlyWhatExists: `path/file.go` and `path/file.go:Name` in a page are looked up in the tree.
func TestPagesNameOnlyWhatExists(t *testing.T) {
	code := regexp.MustCompile("`((?:cmd|api|internal|test|scripts|doc)/[^`\\s]*)`")
	files := goFiles(t)
	for _, page := range []string{"doc/life-of-a-run.md", "doc/promises.md", "doc/developing.md", "doc/rationale.md"} {
		found := code.FindAllStringSubmatch(read(t, page), -1)
		if page == "doc/life-of-a-run.md" && len(found) < 10 {
			t.Errorf("%s names %d places in the code; a walk has more", page, len(found))
		}
		for _, m := range found {
			file, name, has := strings.Cut(m[1], ":")
			if !exists(file) {
				t.Errorf("%s names %s, which does not exist", page, file)
			} else if has && !declared(files, file, name) {
				t.Errorf("%s names %s, which %s does not declare", page, name, file)
			}
		}
	}
}

// TestPromisesAreKept: each promise is linked to a test, as `path_test.go:TestName` or a story `test/script/testdata/x.txtar`.
func TestPromisesAreKept(t *testing.T) {
	n := 0
	for line := range strings.Lines(read(t, "doc/promises.md")) {
		if !strings.HasPrefix(line, "- ") {
			continue
		}
		n++
		if !strings.Contains(line, "_test.go:Test") && !strings.Contains(line, ".txtar`") && !strings.Contains(line, "`test/bench/") {
			t.Errorf("promise without the test that keeps it: %s", line)
		}
	}
	if n < 5 {
		t.Errorf("%d promises read: has their form changed?", n)
	}
}

func TestLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ +(.*)$`)
	anchors := func(text string) []string {
		var out []string
		for _, h := range heading.FindAllStringSubmatch(text, -1) {
			a := strings.ToLower(strings.TrimSpace(h[1]))
			a = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(a, "")
			out = append(out, strings.ReplaceAll(a, " ", "-"))
		}
		return out
	}
	walk(t, func(rel string) {
		if !strings.HasSuffix(rel, ".md") {
			return
		}
		for _, m := range link.FindAllStringSubmatch(read(t, rel), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := rel
			if file != "" {
				target = filepath.Join(filepath.Dir(rel), file)
			}
			if !exists(target) {
				t.Errorf("%s links to %s, which does not exist", rel, m[1])
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s links to %s: no such heading", rel, m[1])
			}
		}
	})
}

// TestChangelogEntries: an entry is "Kind: what changed", a blank line, and what it means for the user.
func TestChangelogEntries(t *testing.T) {
	form := regexp.MustCompile(`\A(Added|Changed|Fixed|Removed|Security): [^\n]{10,120}\n\n(?s:.{20,})\n\z`)
	files, err := filepath.Glob(filepath.Join(root, "changelog/*/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no changelog entry at all")
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !form.Match(data) {
			t.Errorf("%s: want `Added|Changed|Fixed|Removed|Security: subject` of 10 to 120 characters, a blank line, a text", f)
		}
	}
}

// TestNothingOfOneMachine: the tree names neither its own place, nor a package mirror, nor a module proxy.
func TestNothingOfOneMachine(t *testing.T) {
	bad := []string{"/ro" + "ot/go", "proxy.go" + "lang.org", "deb.deb" + "ian.org"}
	if here, err := filepath.Abs(root); err == nil && strings.Count(here, "/") > 1 {
		bad = append(bad, here)
	}
	if out, err := exec.Command("go", "env", "GOPROXY").Output(); err == nil {
		for _, p := range strings.FieldsFunc(string(out), func(r rune) bool { return strings.ContainsRune(",|\n", r) }) {
			if _, host, ok := strings.Cut(p, "://"); ok {
				bad = append(bad, host)
			}
		}
	}
	walk(t, func(rel string) {
		data, err := os.ReadFile(filepath.Join(root, rel))
		if err != nil {
			t.Error(err)
			return
		}
		if bytes.IndexByte(data, 0) >= 0 || strings.HasSuffix(rel, "go.sum") {
			return
		}
		for _, b := range bad {
			if i := bytes.Index(data, []byte(b)); i >= 0 {
				t.Errorf("%s:%d names %s", rel, 1+bytes.Count(data[:i], []byte("\n")), b)
			}
		}
	})
}

func TestLintersHaveReasons(t *testing.T) {
	in := false
	for line := range strings.Lines(read(t, ".golangci.yml")) {
		trimmed := strings.TrimSpace(line)
		if !strings.HasPrefix(line, "    ") {
			in = trimmed == "enable:"
		}
		if strings.HasPrefix(trimmed, "enable:") {
			in = true
		} else if in && strings.HasPrefix(trimmed, "- ") && !strings.Contains(trimmed, "# ") {
			t.Errorf(".golangci.yml: %q without a reason behind it", trimmed)
		}
	}
}
