package engine

import (
	"fmt"
	"strings"

	"brig/api"
)

// The tables of doc/isolation.md are written from the code that acts by them: internal/engine/gen.

// tableBegin and tableEnd stand around each in the page.
const (
	tableBegin = "<!-- table: "
	tableEnd   = "<!-- end -->"
)

// WithTables is the page with its tables written anew. What names no table is an error.
func WithTables(page string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(page, tableBegin)
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, rest, ok := strings.Cut(rest, " -->\n")
		_, after, closed := strings.Cut(rest, tableEnd)
		if !ok || !closed {
			return "", api.Errorf(api.InvalidArgument, "table %.20q is not closed by %s", name, tableEnd)
		}
		table := ""
		switch name {
		case "refused":
			table = refusedTable()
		case "escapes":
			table = escapesTable()
		default:
			return "", api.Errorf(api.InvalidArgument, "there is no table %q", name)
		}
		fmt.Fprintf(&b, "%s%s -->\n%s%s", tableBegin, name, table, tableEnd)
		page = after
	}
}

// refusedTable is what levels cannot do: a row for each refusal, with the levels that share it.
func refusedTable() string {
	var b strings.Builder
	b.WriteString("| level | refused | because |\n|---|---|---|\n")
	type row struct{ what, why string }
	levels := map[row][]string{}
	var rows []row
	for _, l := range (&Engine{}).levels() {
		for _, r := range l.refuses {
			at := row{r.What, r.Why}
			if levels[at] == nil {
				rows = append(rows, at)
			}
			levels[at] = append(levels[at], string(l.name))
		}
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.Join(levels[r], ", "), r.what, r.why)
	}
	return b.String()
}

// escapesTable is what `brig selftest escape` expects of each level.
func escapesTable() string {
	levels := []string{string(api.IsolationChroot), string(api.IsolationContainer), hardened, string(api.IsolationGVisor), string(api.IsolationVM)}
	var b strings.Builder
	fmt.Fprintf(&b, "| probe | what is tried | %s |\n|---|---|%s\n", strings.Join(levels, " | "), strings.Repeat("---|", len(levels)))
	for _, x := range escapes() {
		fmt.Fprintf(&b, "| %s | %s |", x.name, x.what)
		for _, l := range levels {
			word := x.expected(l)
			if word == api.ProbeOpen {
				word = "**open**"
			}
			fmt.Fprintf(&b, " %s |", word)
		}
		b.WriteString("\n")
	}
	return b.String()
}
