package house

import (
	"go/ast"
	"slices"
	"sort"
	"testing"
)

// wide lists the interfaces that may have more than eleven methods, with the reason.
var wide = map[string]string{
	"internal/front/cli.Engine": "the slice of the engine that the command line uses: a method a command",
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	for _, f := range goFiles(t) {
		if !f.test {
			said[f.dir] = said[f.dir] || f.ast.Doc != nil
		}
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s: no file has a package comment: contract and story, above the package clause", dir)
		}
	}
}

func TestNothingHappensBeforeMain(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init() runs before main and cannot return an error", f.fset.Position(fn.Pos()))
			}
			if !ok && !f.test {
				noWorkAtStart(t, f, d)
			}
		}
	}
}

// noWorkAtStart finds package variables that cost every start: compiled expressions, parsed templates, tables.
func noWorkAtStart(t *testing.T, f goFile, d ast.Decl) {
	t.Helper()
	ast.Inspect(d, func(n ast.Node) bool {
		if _, ok := n.(*ast.FuncLit); ok {
			return false // runs when it is called
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if ok && (pkg.Name == "regexp" || pkg.Name == "template" || sel.Sel.Name == "MakeTable" || sel.Sel.Name == "NewReplacer") {
			t.Errorf("%s: %s.%s at package level runs at every start", f.fset.Position(call.Pos()), pkg.Name, sel.Sel.Name)
		}
		return true
	})
}

// TestThermometer reads the sizes that doc/developing.md promises.
func TestThermometer(t *testing.T) {
	var sizes []int
	functions, long := 0, []string{}
	for _, f := range goFiles(t) {
		if f.generated() {
			continue
		}
		sizes = append(sizes, f.lines)
		if f.lines > 1500 {
			t.Errorf("%s has %d lines; none may have over 1500", f.path, f.lines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			functions++
			from, to := f.fset.Position(fn.Pos()), f.fset.Position(fn.End())
			if to.Line-from.Line+1 > 100 {
				long = append(long, from.String())
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			it, ok := spec.Type.(*ast.InterfaceType)
			if ok && it.Methods.NumFields() > 11 && wide[f.dir+"."+spec.Name.Name] == "" {
				t.Errorf("%s: interface %s has %d methods; over 11 needs a reason in test/house", f.path, spec.Name.Name, it.Methods.NumFields())
			}
			return true
		})
	}
	sort.Ints(sizes)
	if p95 := sizes[len(sizes)*95/100]; p95 >= 500 {
		t.Errorf("the file at 95%% has %d lines; 95%% must stay under 500", p95)
	}
	if slices.Sort(long); float64(len(long)) > 0.015*float64(functions) {
		t.Errorf("%d of %d functions are longer than 100 lines, over 1.5%%: %v", len(long), functions, long)
	}
}

// TestFoldersDoNotImportEachOther: the compiler refuses cycles of packages, not those that a test file closes.
func TestFoldersDoNotImportEachOther(t *testing.T) {
	imports := map[[2]string]string{}
	for _, f := range goFiles(t) {
		if f.dir == "test" || f.test {
			continue
		}
		for _, imp := range f.ast.Imports {
			if p := imp.Path.Value; len(p) > 7 && p[1:6] == "brig/" {
				imports[[2]string{f.dir, p[6 : len(p)-1]}] = f.path
			}
		}
	}
	for pair, file := range imports {
		if other, ok := imports[[2]string{pair[1], pair[0]}]; ok {
			t.Errorf("%s and %s import each other's folders", file, other)
		}
	}
}
