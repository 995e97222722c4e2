package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goFile is one parsed file of the module.
type goFile struct {
	path  string // relative to the top
	dir   string
	test  bool
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

// generated reports whether a program wrote the file.
func (f goFile) generated() bool { return ast.IsGenerated(f.ast) }

// goFiles parses every Go file of the module, whatever its build tags.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	fset := token.NewFileSet()
	walk(t, func(rel string) {
		if !strings.HasSuffix(rel, ".go") || strings.HasPrefix(rel, "tools/") {
			return
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, rel), nil, parser.ParseComments)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		out = append(out, goFile{
			path: rel, dir: filepath.Dir(rel), test: strings.HasSuffix(rel, "_test.go"),
			lines: fset.File(f.FileStart).LineCount(), fset: fset, ast: f,
		})
	})
	if len(out) < 10 {
		t.Fatalf("only %d Go files found: is %s the top of the tree?", len(out), root)
	}
	return out
}

// walk calls do for every file of the tree that belongs to the project.
func walk(t *testing.T, do func(rel string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", ".cache", "testdata"}, d.Name()) && rel != "test/script/testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && rel != ".git" {
			do(rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsStayWithinTheWalls(t *testing.T) {
	l, err := readLayers(filepath.Join(root, "doc/layers.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range goFiles(t) {
		if l.room(f.dir) == "" {
			t.Errorf("%s: its folder belongs to no room of doc/layers.txt", f.path)
			continue
		}
		for _, imp := range f.ast.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			to, ours := strings.CutPrefix(p, "brig/")
			if ours && !l.allows(f.dir, to, f.test) {
				t.Errorf("%s imports %s: room %q may not import room %q (doc/layers.txt)", f.path, p, l.room(f.dir), l.room(to))
			}
		}
	}
}

func TestLeanProgramsLinkNothingHeavy(t *testing.T) {
	l, err := readLayers(filepath.Join(root, "doc/layers.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(l.forbid) == 0 {
		t.Fatal("doc/layers.txt forbids nothing")
	}
	for program, forbidden := range l.forbid {
		cmd := exec.Command("go", "list", "-deps", "./"+program)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("go list -deps ./%s: %v", program, err)
			continue
		}
		for _, p := range strings.Fields(string(out)) {
			for _, bad := range forbidden {
				if p == bad || strings.HasPrefix(p, bad+"/") {
					t.Errorf("%s links %s: find by whom with go list -deps -f '{{.ImportPath}}: {{.Imports}}' ./%s", program, p, program)
				}
			}
		}
	}
}

func TestTableItself(t *testing.T) {
	file := filepath.Join(t.TempDir(), "layers.txt")
	text := "a: b # why\nb:\nb/c: b\ntests: d\nd:\na (tests): b/c\nforbid cmd/x: net/http\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := readLayers(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to   string
		test, want bool
	}{
		{"a", "b", false, true}, {"b", "a", false, false}, {"a/x", "b/y", false, true}, {"a", "b/c", false, false}, {"a", "b/c", true, true},
		{"b/c", "b", false, true}, {"b", "d", true, true}, {"b", "d", false, false}, {"a", "unknown", true, false}, {"b/c/x", "b/c/y", false, true},
	} {
		if got := l.allows(c.from, c.to, c.test); got != c.want {
			t.Errorf("allows(%s, %s, test %v) = %v, want %v", c.from, c.to, c.test, got, c.want)
		}
	}
	if !slices.Equal(l.forbid["cmd/x"], []string{"net/http"}) {
		t.Errorf("forbid = %v", l.forbid)
	}
	if err := os.WriteFile(file, []byte("a:\na: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLayers(file); err == nil {
		t.Error("a line that stands there twice was taken")
	}
}
