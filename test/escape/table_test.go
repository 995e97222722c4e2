package escape

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestTable: README.md has every row of the list of known escapes, each of the runtime's names tests that exist and the defences that they are tried
// without.
func TestTable(t *testing.T) {
	read := func(pattern string) (all string) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all += string(data)
		}
		return all
	}
	tests, defences := read("*_test.go"), read("../../internal/base/weak/on.go")
	var rows []string
	for line := range strings.Lines(read("README.md")) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 7 || strings.Trim(cells[1], " -") == "" || strings.TrimSpace(cells[1]) == "row" {
			continue
		}
		row := strings.TrimSpace(cells[1])
		rows = append(rows, row)
		names := strings.Fields(strings.ReplaceAll(cells[4], "`", ""))
		for _, name := range names {
			if !strings.Contains(tests, "func "+name+"(") {
				t.Errorf("row %s: there is no test %s", row, name)
			}
		}
		weak := strings.FieldsFunc(cells[5], func(r rune) bool { return r == ',' || r == ' ' })
		for _, name := range weak {
			if !strings.Contains(defences, strconv.Quote(name)) {
				t.Errorf("row %s: there is no defence %s", row, name)
			}
		}
		if of := strings.HasPrefix(strings.TrimSpace(cells[3]), "yes"); of && (len(names) == 0 || len(weak) == 0) || !of && len(weak) > 0 {
			t.Errorf("row %s: %q with tests %v and defences %v", row, cells[3], names, weak)
		}
	}
	for n := 1; n <= 51; n++ {
		if !slices.Contains(rows, strconv.Itoa(n)) {
			t.Errorf("row %d is missing", n)
		}
	}
}
