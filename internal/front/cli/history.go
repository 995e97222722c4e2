package cli

import (
	"strconv"
	"strings"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"brig/api"
)

// historyOptions are the flags of history.
type historyOptions struct {
	human, noTrunc, quiet bool
	format                string
}

func (a *app) history() *cobra.Command {
	var o historyOptions
	cmd := &cobra.Command{
		Use:               "history [OPTIONS] IMAGE",
		Short:             "Show the history of an image",
		Example:           "  brig history debian:12\n  brig history --no-trunc --format '{{.CreatedBy}}' app:1",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.engine().ImageDetail(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printHistory(o, &d, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.format, "format", "", formatHelp)
	f.BoolVarP(&o.human, "human", "H", true, "Print sizes and dates in human readable format")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	return cmd
}

// historyRow is a step as history shows it; the field names are docker's.
type historyRow struct {
	Comment, CreatedAt, CreatedBy, CreatedSince, ID, Size string
}

// createdByWidth is where docker cuts the column, in characters.
const createdByWidth = 45

// printHistory prints the steps that made an image, the last first.
func (a *app) printHistory(o historyOptions, d *api.ImageDetail, now time.Time) error {
	rows := []historyRow{}
	for i, s := range steps(d) {
		row := historyRow{ID: "<missing>", Comment: printable(s.Comment), CreatedBy: printable(s.CreatedBy), Size: strconv.FormatInt(s.size, 10), CreatedSince: "N/A"}
		if i == 0 {
			row.ID = d.ID
		}
		if s.Created != nil && !s.Created.IsZero() {
			row.CreatedAt = s.Created.Local().Format(time.RFC3339)
			row.CreatedSince = row.CreatedAt
			if o.human {
				row.CreatedSince = ago(now, *s.Created)
			}
		}
		if o.human {
			row.Size = humanSize(s.size)
		}
		if !o.noTrunc {
			row.CreatedBy = ellipsis(row.CreatedBy, createdByWidth)
			if i == 0 {
				row.ID = shortID(d.ID)
			}
		}
		rows = append(rows, row)
	}
	if o.quiet && o.format == "" {
		o.format = "{{.ID}}"
	}
	return printRows(a.streams.Stdout, o.format, "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", header{
		"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
	}, rows)
}

// step is one entry of an image's history with the bytes that it brought.
type step struct {
	imagespec.History
	size int64
}

// steps joins history and layers, the last first. Where the history tells of fewer layers than there are, or of none, the rest are steps too.
func steps(d *api.ImageDetail) []step {
	var all []step
	layers := d.Layers
	for _, h := range d.History {
		s := step{History: h}
		if !h.EmptyLayer && len(layers) > 0 {
			s.size, layers = layers[0].Size, layers[1:]
		}
		all = append([]step{s}, all...)
	}
	for _, l := range layers {
		all = append([]step{{size: l.Size}}, all...)
	}
	return all
}

// printable keeps what an image says of itself on one line, and away from the terminal's control sequences.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
