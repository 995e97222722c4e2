package cli

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// imagesOptions are the flags of images.
type imagesOptions struct {
	quiet, noTrunc, digests, noHeading bool
	format, sort                       string
	filter                             filters

	containers []api.Container // where the format shows how many an image has
	bounds     bounds
}

func (a *app) images() *cobra.Command {
	o := imagesOptions{filter: filters{}}
	cmd := &cobra.Command{
		Use:               "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short:             "List images",
		Example:           "  brig images\n  brig images --filter dangling=true -q\n  brig images --format 'table {{.Repository}}:{{.Tag}}\\t{{.Size}}' debian",
		Args:              maxArgs(1),
		ValidArgsFunction: a.completeImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.filter["reference"] = append(o.filter["reference"], args[0])
			}
			all, err := a.engine().Images(cmd.Context())
			if errors.Is(err, api.Corrupt) { // one damaged record is not in the way of the others
				a.complain(err)
			} else if err != nil {
				return err
			}
			if shows(o.format, "Containers") {
				if o.containers, err = a.engine().List(cmd.Context()); err != nil {
					return err
				}
			}
			if o.bounds, err = a.bounds(cmd.Context(), o.filter, time.Now()); err != nil {
				return err
			}
			return a.printImages(o, all, time.Now())
		},
	}
	f := cmd.Flags()
	f.BoolP("all", "a", false, "Show all images (there are none that are hidden otherwise)")
	f.BoolVar(&o.digests, "digests", false, "Show digests")
	list(f, "filter", "f", "Filter output based on conditions provided: reference, label, dangling, before, since, until",
		o.filter.add("reference", "label", "dangling", "before", "since", "until"))
	f.StringVar(&o.format, "format", "", formatHelp)
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVarP(&o.noHeading, "noheading", "n", false, "Do not print headers")
	f.StringVar(&o.sort, "sort", "created", "Sort output by created, id, repository, size or tag")
	return cmd
}

// imageRow is an image as images shows it; the field names are docker's.
type imageRow struct {
	Containers, CreatedAt, CreatedSince, Digest, ID, Repository, SharedSize, Size, Tag, UniqueSize, VirtualSize string

	bytes int64
}

// printImages prints those of all that o selects, the youngest first.
func (a *app) printImages(o imagesOptions, all []api.Image, now time.Time) error {
	for _, v := range o.filter["dangling"] {
		if v != "true" && v != "false" {
			return fmt.Errorf("invalid filter 'dangling=%s': use true or false", v)
		}
	}
	for _, v := range o.filter["reference"] {
		if _, err := path.Match(v, ""); err != nil {
			return fmt.Errorf("invalid filter 'reference=%s': %w", v, err)
		}
	}
	slices.SortStableFunc(all, func(x, y api.Image) int { return y.Created.Compare(x.Created) })
	rows := []imageRow{}
	shares := sharesOf(all, o.containers)
	seen := map[string]bool{}
	for i := range all {
		img := &all[i]
		if !o.matches(img) || o.quiet && seen[img.ID] {
			continue
		}
		seen[img.ID] = true
		row := imageRowOf(img, now, !o.noTrunc)
		shared := shares.bytes(img)
		row.SharedSize, row.UniqueSize = humanSize(shared), humanSize(imageSize(img)-shared)
		row.Containers = strconv.Itoa(shares.containers[img.ID])
		rows = append(rows, row)
	}
	if o.quiet && o.format == "" {
		o.format = "{{.ID}}"
	}
	usual := "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	if o.digests {
		usual = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	if err := sortImages(rows, o.sort); err != nil {
		return err
	}
	titles := header{
		"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
		"Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
	}
	if o.noHeading {
		titles = nil
	}
	return printRows(a.streams.Stdout, o.format, usual, titles, rows)
}

// sortImages sorts the rows, which come youngest first, by one of podman's words.
func sortImages(rows []imageRow, by string) error {
	var key func(r *imageRow) string
	switch by {
	case "created":
		return nil
	case "id":
		key = func(r *imageRow) string { return r.ID }
	case "repository":
		key = func(r *imageRow) string { return r.Repository }
	case "size":
		slices.SortStableFunc(rows, func(x, y imageRow) int { return cmp.Compare(x.bytes, y.bytes) })
		return nil
	case "tag":
		key = func(r *imageRow) string { return r.Tag }
	default:
		return fmt.Errorf("invalid sort order %q: use created, id, repository, size or tag", by)
	}
	slices.SortStableFunc(rows, func(x, y imageRow) int { return strings.Compare(key(&x), key(&y)) })
	return nil
}

// matches reports whether img passes every filter.
func (o *imagesOptions) matches(img *api.Image) bool {
	return o.filter.any("dangling", func(v string) bool { return (v == "true") == (img.Name == "") }) &&
		o.filter.any("reference", func(v string) bool { return img.Name != "" && nameMatches(img.Name, v) }) &&
		o.filter.labelled(img.Config.Labels) && o.bounds.admit(img.Created)
}

// nameMatches reports whether a pattern of path.Match fits an image's short or full name, with or without its tag.
func nameMatches(name, pattern string) bool {
	short := familiar(name)
	repo, _, _ := splitName(short)
	fullRepo, _, _ := splitName(name)
	for _, form := range []string{short, repo, name, fullRepo} {
		if ok, _ := path.Match(pattern, form); ok { // the pattern was checked
			return true
		}
	}
	return false
}

func imageRowOf(img *api.Image, now time.Time, trunc bool) imageRow {
	repo, tag, digest := splitName(familiar(img.Name))
	if digest == "" {
		digest = string(img.Target.Digest)
	}
	none := func(s string) string {
		if s == "" {
			return "<none>"
		}
		return s
	}
	size := humanSize(imageSize(img))
	r := imageRow{
		ID: img.ID, Repository: none(repo), Tag: none(tag), Digest: none(digest), Size: size, VirtualSize: size, bytes: imageSize(img),
		CreatedAt: img.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"), CreatedSince: ago(now, img.Created),
	}
	if trunc {
		r.ID = shortID(r.ID)
	}
	return r
}

// imageSize is the number of bytes of an image's files.
func imageSize(img *api.Image) int64 {
	var n int64
	for _, l := range img.Layers {
		n += l.Size
	}
	return n
}

// familiar is a full reference as people write it: without docker.io and library.
func familiar(name string) string {
	rest, ok := strings.CutPrefix(name, "docker.io/")
	if !ok {
		return name
	}
	if short, ok := strings.CutPrefix(rest, "library/"); ok && !strings.Contains(short, "/") {
		return short
	}
	return rest
}

// splitName takes a reference apart.
func splitName(name string) (repo, tag, digest string) {
	name, digest, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:], digest
	}
	return name, "", digest
}

// tagged is a name as typed in its short form with the tag that it means.
func tagged(name string) string {
	name = familiar(name)
	if repo, tag, digest := splitName(name); tag == "" && digest == "" {
		return repo + ":latest"
	}
	return name
}
