package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

// searchOptions are the flags of search that its request does not hold.
type searchOptions struct {
	format          string
	filter          filters
	noTrunc, verify bool
}

func (a *app) search() *cobra.Command {
	r := api.TransferRequest{Op: "search"}
	o := searchOptions{filter: filters{}, verify: true}
	cmd := &cobra.Command{
		Use:               "search [OPTIONS] TERM",
		Short:             "Search a registry for images",
		Long:              "Search a registry for images: docker.io, or the one that TERM begins with.",
		Example:           "  brig search --filter is-official=true debian\n  brig search registry.example.com/team",
		Args:              exactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("limit") && (r.Limit < 1 || r.Limit > 100) {
				return fmt.Errorf("limit %d is outside the range of [1, 100]", r.Limit)
			}
			keep, err := o.keep()
			if err != nil {
				return err
			}
			r.Term, r.Insecure = args[0], !o.verify
			reply, err := a.transfer(cmd, r)
			if err != nil {
				return err
			}
			return a.printFound(o, slices.DeleteFunc(reply.Found, func(f api.SearchResult) bool { return !keep(&f) }))
		},
	}
	f := cmd.Flags()
	list(f, "filter", "f", "Filter output based on conditions provided: stars, is-official, is-automated", o.filter.add("stars", "is-official", "is-automated"))
	f.StringVar(&o.format, "format", "", formatHelp)
	f.IntVar(&r.Limit, "limit", 0, "Max number of search results (default 25)")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	registryFlags(f, &r)
	f.BoolVar(&o.verify, "tls-verify", true, "Require HTTPS and a valid certificate of the registry")
	return cmd
}

// keep makes the filters one question.
func (o *searchOptions) keep() (func(*api.SearchResult) bool, error) {
	stars := 0
	for _, v := range o.filter["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("invalid filter 'stars=%s'", v)
		}
		stars = max(stars, n)
	}
	is := func(name string) (want, asked bool, err error) {
		for _, v := range o.filter[name] {
			if want, err = strconv.ParseBool(v); err != nil {
				return false, false, fmt.Errorf("invalid filter '%s=%s'", name, v)
			}
			asked = true
		}
		return want, asked, nil
	}
	official, askOfficial, err := is("is-official")
	if err != nil {
		return nil, err
	}
	automated, askAutomated, err := is("is-automated")
	return func(r *api.SearchResult) bool {
		return r.Stars >= stars && (!askOfficial || r.Official == official) && (!askAutomated || r.Automated == automated)
	}, err
}

// foundRow is a result as search shows it; the field names are docker's.
type foundRow struct {
	Name, Description, StarCount, IsOfficial, IsAutomated, Index string
}

// maxDescription is what a description is cut to, in characters: docker's number.
const maxDescription = 45

func (a *app) printFound(o searchOptions, found []api.SearchResult) error {
	slices.SortStableFunc(found, func(x, y api.SearchResult) int { return y.Stars - x.Stars })
	mark := func(yes bool) string {
		if yes {
			return "[OK]"
		}
		return ""
	}
	rows := []foundRow{}
	for i := range found {
		f := &found[i]
		about := strings.Join(strings.Fields(f.Description), " ")
		if r := []rune(about); !o.noTrunc && len(r) > maxDescription {
			about = string(r[:maxDescription-1]) + "…"
		}
		rows = append(rows, foundRow{Name: f.Name, Description: about, StarCount: strconv.Itoa(f.Stars), IsOfficial: mark(f.Official), IsAutomated: mark(f.Automated), Index: f.Index})
	}
	return printRows(a.streams.Stdout, o.format, "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}", header{
		"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED", "Index": "INDEX",
	}, rows)
}
