package trust

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"brig/api"
	"brig/internal/base/policyfile"
	"brig/internal/image/ref"
)

// row is a line of what podman image trust show prints, and an element of its JSON.
type row struct {
	Transport string `json:"transport"`
	Name      string `json:"name,omitempty"`
	RepoName  string `json:"repo_name,omitempty"`
	Type      string `json:"type"`
	ID        string `json:"gpg_id,omitempty"`
}

// Show prints the policy that counts: as a table, as JSON (format json) or as it is (raw). scope, where it is not empty, asks for what
// applies to an image, a repository, a namespace or a host.
func Show(out io.Writer, given, format, scope string) error {
	path, err := policyfile.Find(given)
	if err != nil {
		return api.Errorf(api.InvalidArgument, "%w", err)
	}
	b := []byte(`{"default":[{"type":"insecureAcceptAnything"}]}` + "\n") // what holds where there is none
	if path != "" {
		if b, _, err = readFile(path, maxPolicy); err != nil {
			return api.Errorf(api.InvalidArgument, "signature policy %s: %w", path, err)
		}
	}
	if format == "raw" {
		_, err := out.Write(b)
		return err
	}
	p, err := Parse(b)
	if err != nil {
		return api.Errorf(api.InvalidArgument, "signature policy %s: %w", path, err)
	}
	rows := p.rows()
	if scope != "" {
		if rows, err = p.rowsFor(scope); err != nil {
			return err
		}
	}
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if format != "noheading" {
		fmt.Fprintln(w, "TRANSPORT\tNAME\tTYPE\tID\tSTORE")
	}
	for _, r := range rows {
		name := r.Name
		if r.Transport == "all" {
			name = r.RepoName
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", r.Transport, name, r.Type, r.ID)
	}
	return w.Flush()
}

func (p *Policy) rows() []row {
	rows := rowsOf("all", "* (default)", "default", p.fallback)
	transports := make([]string, 0, len(p.transports))
	for t := range p.transports {
		transports = append(transports, t)
	}
	slices.SortFunc(transports, func(a, b string) int { return strings.Compare(order(a), order(b)) })
	for _, t := range transports {
		scopes := make([]string, 0, len(p.transports[t]))
		for s := range p.transports[t] {
			scopes = append(scopes, s)
		}
		slices.Sort(scopes)
		for _, s := range scopes {
			rows = append(rows, rowsOf(shown(t), s, s, p.transports[t][s])...)
		}
	}
	return rows
}

// rowsFor tells what applies to an image from a registry.
func (p *Policy) rowsFor(scope string) ([]row, error) {
	s := Subject{Transport: Docker, Reference: scope}
	if r, err := ref.Parse(scope); err == nil && strings.Contains(scope, "/") {
		s.Reference = r.String()
	} else if r, err := ref.Parse(scope + "/x"); err == nil { // a host or a namespace
		s.Reference = r.String()
	} else {
		return nil, err
	}
	rules, where := p.find(s)
	name, scoped := strings.CutPrefix(where, "scope ")
	switch {
	case scoped:
		return rowsOf(shown(Docker), name, name, rules), nil
	case strings.HasPrefix(where, "transport "):
		return rowsOf(shown(Docker), "", "", rules), nil
	}
	return rowsOf("all", "* (default)", "default", rules), nil
}

// order sorts registries before the other transports.
func order(transport string) string {
	if transport == Docker {
		return ""
	}
	return transport
}

// shown is podman's word for a transport.
func shown(transport string) string {
	if transport == Docker {
		return "repository"
	}
	return transport
}

func rowsOf(transport, name, repo string, rules []requirement) []row {
	var rows []row
	for _, r := range rules {
		x := row{Transport: transport, Name: name, RepoName: repo, Type: r.kind}
		switch r.kind {
		case typeAccept:
			x.Type = "accept"
		case typeGPG:
			x.Type = "signed"
		case typeSigstore:
			x.ID = "N/A"
		}
		rows = append(rows, x)
	}
	return rows
}
