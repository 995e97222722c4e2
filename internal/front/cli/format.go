package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// header stands for a row when a table's template is executed for its first line: each field yields the column's title.
type header map[string]string

// Label makes {{.Label "key"}} work in a title line: the column is called as the key.
func (header) Label(key string) string { return key }

// functions are those that docker offers in templates.
func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			err := enc.Encode(v)
			return strings.TrimSpace(b.String()), err
		},
		"split": strings.Split,
		"join":  strings.Join,
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string {
			if r := []rune(s); len(r) > n {
				return string(r[:n])
			}
			return s
		},
	}
}

// parseTemplate makes a template of a --format; as in docker, a backslash and t or n stand for a tab and a new line.
func parseTemplate(format string) (*template.Template, error) {
	text := strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	t, err := template.New("").Funcs(functions()).Parse(text)
	if err != nil {
		return nil, &exitError{code: 64, err: fmt.Errorf("template parsing error: %w", err)} // docker's code
	}
	return t, nil
}

// printRows prints a line for each row as format says: a template, "json", or "table" with a template for aligned columns under the
// titles. Without a format it is table with the template given as usual. Without titles there is no line of them.
func printRows[T any](out io.Writer, format, usual string, titles header, rows []T) (err error) {
	if format == "json" {
		return printLines(out, rows)
	}
	format, isTable := cutTable(format, usual)
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	whole := bufio.NewWriter(out) // a tabwriter writes cell by cell
	defer func() { err = errors.Join(err, whole.Flush()) }()
	out = whole
	if isTable {
		tab := tabwriter.NewWriter(out, 10, 1, 3, ' ', 0) // docker's widths
		defer func() { err = errors.Join(err, tab.Flush()) }()
		out = tab
		if titles != nil {
			if err := executeLine(out, t, titles); err != nil {
				return err
			}
		}
	}
	for _, row := range rows {
		if err := executeLine(out, t, row); err != nil {
			return err
		}
	}
	return nil
}

// cutTable separates the word table from a template.
func cutTable(format, usual string) (string, bool) {
	rest, isTable := strings.CutPrefix(format, "table")
	if rest = strings.TrimSpace(strings.TrimPrefix(rest, `\t`)); rest == "" {
		return usual, true
	}
	return rest, isTable
}

func executeLine(out io.Writer, t *template.Template, v any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	b.WriteByte('\n')
	_, err := out.Write(b.Bytes())
	return err
}

// printLines prints each row as a line of JSON.
func printLines[T any](out io.Writer, rows []T) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, row := range rows {
		if err := enc.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

// printObject prints v by a template, or for "json" as a line of JSON. A template finds fields by their Go names or, if that fails,
// by those of the JSON form: docker's own scripts use both {{.ID}} and {{.Id}}.
func printObject(out io.Writer, format string, v any) error {
	if format == "json" {
		return printLines(out, []any{v})
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	err = executeLine(&b, t, v)
	if err != nil {
		b.Reset()
		var raw any
		data, jsonErr := json.Marshal(v)
		if jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber() // a float would print large numbers with an exponent
		if jsonErr := dec.Decode(&raw); jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
		if executeLine(&b, t.Option("missingkey=error"), raw) != nil {
			return err
		}
	}
	_, err = out.Write(b.Bytes())
	return err
}

// printPretty prints v as indented JSON, as docker inspect does.
func printPretty(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	return enc.Encode(v)
}

const formatHelp = "Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template"

// filters are the values of --filter by name.
type filters map[string][]string

// add keeps one NAME=VALUE, of the names that are known.
func (f filters) add(known ...string) func(string) error {
	return func(s string) error {
		name, val, found := strings.Cut(s, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !found {
			return fmt.Errorf("invalid filter %q: use NAME=VALUE", s)
		}
		for _, k := range known {
			if k == name {
				f[name] = append(f[name], strings.TrimSpace(val))
				return nil
			}
		}
		return fmt.Errorf("invalid filter '%s': the filters are %s", name, strings.Join(known, ", "))
	}
}

// any reports whether one of the values of a filter matches, or there is none.
func (f filters) any(name string, match func(val string) bool) bool {
	for _, val := range f[name] {
		if match(val) {
			return true
		}
	}
	return len(f[name]) == 0
}

// labelled reports whether labels have all that are asked for as KEY or KEY=VALUE.
func (f filters) labelled(labels map[string]string) bool {
	for _, want := range f["label"] {
		key, val, exact := strings.Cut(want, "=")
		got, ok := labels[key]
		if !ok || exact && got != val {
			return false
		}
	}
	return true
}
