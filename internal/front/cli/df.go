package cli

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) systemDf() *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use:               "df [OPTIONS]",
		Short:             "Show disk usage",
		Example:           "  brig system df\n  brig system df -v\n  brig system df --format '{{.Type}}: {{.Size}}, of which {{.Reclaimable}} can go'",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := a.engine().DiskUsage(cmd.Context())
			if err != nil {
				return err
			}
			if verbose {
				return a.printUsageVerbose(&u, format, time.Now())
			}
			return printRows(a.streams.Stdout, format, "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}", header{
				"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
				"SizeBytes": "SIZE", "ReclaimableBytes": "RECLAIMABLE",
			}, usageRows(&u))
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "", formatHelp)
	f.BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	return cmd
}

// usageRow is a type of things as df shows it. The field names are docker's but for the last two, which are exact.
type usageRow struct {
	Active, Reclaimable, Size, TotalCount, Type string

	SizeBytes, ReclaimableBytes int64
}

func usageRows(u *api.DiskUsage) []usageRow {
	rows := make([]usageRow, 0, len(u.Types))
	for _, t := range u.Types {
		r := usageRow{
			Type: t.Type, TotalCount: strconv.Itoa(t.Total), Active: strconv.Itoa(t.Active), Size: humanSize(t.Size),
			Reclaimable: humanSize(t.Reclaimable), SizeBytes: t.Size, ReclaimableBytes: t.Reclaimable,
		}
		if t.Size > 0 {
			r.Reclaimable += fmt.Sprintf(" (%d%%)", t.Reclaimable*100/t.Size)
		}
		rows = append(rows, r)
	}
	return rows
}

// The rows of df -v; the field names are docker's.
type (
	usageImage struct {
		Repository, Tag, ID, CreatedSince, Size, SharedSize, UniqueSize, Containers, CreatedAt, Digest string
	}
	usageContainer struct {
		ID, Image, Command, LocalVolumes, Size, Logs, RunningFor, Status, Names, CreatedAt, Labels, Mounts, Networks, Ports, State string
	}
	usageVolume struct {
		Name, Links, Size, Driver, Scope string
	}
	usageOther struct {
		What, Size, Reclaimable string
	}
)

// printUsageVerbose prints a table for each type, or all of them as one object.
func (a *app) printUsageVerbose(u *api.DiskUsage, format string, now time.Time) error {
	images, containers := make([]usageImage, 0), make([]usageContainer, 0)
	volumes, others := make([]usageVolume, 0), make([]usageOther, 0)
	for _, i := range u.Images {
		r := imageRowOf(&i.Image, now, true)
		images = append(images, usageImage{
			r.Repository, r.Tag, r.ID, r.CreatedSince, humanSize(i.Size), humanSize(i.Shared), humanSize(i.Size - i.Shared), strconv.Itoa(i.Containers),
			r.CreatedAt, r.Digest,
		})
	}
	for _, c := range u.Containers {
		r := psRowOf(&c.Container, now, true)
		containers = append(containers, usageContainer{r.ID, r.Image, r.Command, strconv.Itoa(c.Volumes), humanSize(c.Size), humanSize(c.Logs), r.RunningFor, r.Status, r.Names,
			r.CreatedAt, r.Labels, r.Mounts, r.Networks, r.Ports, r.State})
	}
	for _, v := range u.Volumes {
		volumes = append(volumes, usageVolume{v.Name, strconv.Itoa(v.Links), humanSize(v.Size), "local", "local"})
	}
	for _, o := range u.Others {
		others = append(others, usageOther{o.What, humanSize(o.Size), humanSize(o.Reclaimable)})
	}
	out := a.streams.Stdout
	if format != "" && format != "table" {
		return printObject(out, format, struct {
			Images     []usageImage
			Containers []usageContainer
			Volumes    []usageVolume
			Other      []usageOther
			Total      int64
		}{images, containers, volumes, others, u.Total})
	}
	a.printf("Images space usage:\n\n")
	err := printRows(out, "", "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}", header{
		"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE", "SharedSize": "SHARED SIZE",
		"UniqueSize": "UNIQUE SIZE", "Containers": "CONTAINERS",
	}, images)
	a.printf("\nContainers space usage:\n\n")
	err = errors.Join(err, printRows(out, "", "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.Logs}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}", header{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "LocalVolumes": "LOCAL VOLUMES", "Size": "SIZE", "Logs": "LOGS",
		"RunningFor": "CREATED", "Status": "STATUS", "Names": "NAMES",
	}, containers))
	a.printf("\nLocal Volumes space usage:\n\n")
	err = errors.Join(err, printRows(out, "", "{{.Name}}\t{{.Links}}\t{{.Size}}", header{"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}, volumes))
	a.printf("\nOther space usage:\n\n")
	err = errors.Join(err, printRows(out, "", "{{.What}}\t{{.Size}}\t{{.Reclaimable}}", header{"What": "WHAT", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}, others))
	total := humanSize(u.Total)
	if u.Limit > 0 {
		total += " of " + humanSize(u.Limit)
	}
	a.printf("\nTotal: %s\n", total)
	return err
}
