package remote

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
)

const (
	// searchHost is where docker.io is searched.
	searchHost = "index.docker.io"
	maxPage    = 8 << 20 // bytes of a page of results
	pageSize   = 1000    // repositories of a registry's catalogue that are asked for at a time
	maxPages   = 200
	maxName    = 4096 // bytes of a name or a description
)

// Search looks for repositories of a registry whose name has term in it: by the search of docker's first protocol, which docker.io, quay.io
// and others have, or else in the list of its repositories. A registry that has neither is an api.Unsupported.
func Search(ctx context.Context, host, term string, limit int, o Options) ([]api.SearchResult, error) {
	p, err := registry(host, nil, o)
	if err != nil {
		return nil, err
	}
	if p.at.Host == "registry-1.docker.io" {
		// Another host with a protocol of its own, and no token of the registry's.
		p.at.Host, p.at.Schemes = searchHost, []string{"https"}
		p.session.host = ""
	}
	hub := host == ref.DefaultDomain
	if !hub {
		if err := p.dial(ctx); err != nil {
			return nil, err
		}
	} else {
		p.scheme = p.at.Schemes[0]
	}
	var all []api.SearchResult
	if hub || term != "" { // the old search finds nothing for nothing
		all, err = p.searchOld(ctx, host, term, limit)
		if err == nil || hub || errors.Is(err, api.Unavailable) && ctx.Err() != nil {
			return all, err
		}
	}
	all, err = p.catalogue(ctx, host, term, limit)
	if errors.Is(err, api.NotFound) || errors.Is(err, api.Corrupt) {
		return nil, api.Errorf(api.Unsupported, "%s cannot be searched: it has neither docker's /v1/search nor a list of its repositories (/v2/_catalog: %w)", p.at.Name(), err)
	}
	return all, err
}

// searchOld is docker's GET /v1/search.
func (p *place) searchOld(ctx context.Context, host, term string, limit int) ([]api.SearchResult, error) {
	u := url.URL{Scheme: p.scheme, Host: p.at.Host, Path: "/v1/search", RawQuery: url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}.Encode()}
	var answer struct {
		Results []struct {
			Name, Description string
			Stars             int  `json:"star_count"`
			Official          bool `json:"is_official"`
			Automated         bool `json:"is_automated"`
		}
	}
	if _, err := p.page(ctx, u.String(), &answer); err != nil {
		return nil, err
	}
	var all []api.SearchResult
	for _, r := range answer.Results {
		if len(all) == limit {
			break
		}
		all = append(all, api.SearchResult{Index: host, Name: shown(host, r.Name), Description: clean(r.Description), Stars: r.Stars, Official: r.Official, Automated: r.Automated})
	}
	return all, nil
}

// catalogue looks through GET /v2/_catalog, page after page.
func (p *place) catalogue(ctx context.Context, host, term string, limit int) ([]api.SearchResult, error) {
	var all []api.SearchResult
	next := (&url.URL{Scheme: p.scheme, Host: p.at.Host, Path: p.at.Root + "/_catalog", RawQuery: "n=" + strconv.Itoa(pageSize)}).String()
	for range maxPages {
		var answer struct{ Repositories []string }
		link, err := p.page(ctx, next, &answer)
		if err != nil {
			return nil, err
		}
		for _, name := range answer.Repositories {
			if strings.Contains(name, term) {
				all = append(all, api.SearchResult{Index: host, Name: shown(host, name)})
			}
			if len(all) == limit {
				return all, nil
			}
		}
		if link == "" || link == next {
			return all, nil
		}
		next = link
	}
	return all, nil
}

// page gets one page of JSON, and the address of the next.
func (p *place) page(ctx context.Context, address string, to any) (string, error) {
	resp, err := p.do(ctx, request{method: http.MethodGet, path: address, header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := whole(resp.Body, maxPage+1, p.guard.patience.header)
	if err != nil {
		return "", p.about.explain(ctx, err)
	}
	if err := json.Unmarshal(b, to); err != nil || len(b) > maxPage {
		return "", api.Errorf(api.Corrupt, "%s: its answer is no list", p.at.Name())
	}
	return nextLink(resp), nil
}

// nextLink reads the Link header of RFC 5988 as the distribution specification has it: <ADDRESS>; rel="next". It must stay at the host.
func nextLink(resp *http.Response) string {
	for _, l := range resp.Header.Values("Link") {
		address, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(l), "<"), ">")
		if !ok || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		u, err := resp.Request.URL.Parse(address)
		if err == nil && u.Host == resp.Request.URL.Host && u.Scheme == resp.Request.URL.Scheme {
			return u.String()
		}
	}
	return ""
}

// shown is a repository's name as one would pull it.
func shown(host, name string) string {
	name = clean(name)
	if host == ref.DefaultDomain {
		return strings.TrimPrefix(name, "library/")
	}
	return host + "/" + strings.TrimPrefix(name, host+"/")
}

// clean makes a registry's words fit for a terminal.
func clean(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, ""))
}
