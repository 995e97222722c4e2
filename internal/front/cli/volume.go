package cli

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) volumeGroup() *cobra.Command {
	return a.group("volume", "Manage volumes", "  brig volume create data\n  brig volume ls", []member{
		{name: "create", construct: (*app).volumeCreate}, {name: "exists", construct: (*app).volumeExists}, {name: "export", construct: (*app).volumeExport},
		{name: "import", construct: (*app).volumeImport}, {name: "inspect", construct: (*app).volumeInspect}, {name: "ls", construct: (*app).volumeList, aliases: []string{"list"}},
		{name: "mount", construct: (*app).volumeMount}, {name: "unmount", construct: (*app).volumeUnmount}, {name: "reload", construct: (*app).volumeReload},
		{name: "update", construct: (*app).volumeUpdate}, {name: "prune", construct: (*app).volumePrune}, {name: "rm", construct: (*app).volumeRemove, aliases: []string{"remove"}},
	})
}

func (a *app) volumeCreate() *cobra.Command {
	var v api.Volume
	var labelled, options []string
	var name string
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] [VOLUME]",
		Short:             "Create a volume",
		Example:           "  brig volume create data\n  brig volume create --opt size=1g small\n  brig volume create --label team=a --opt type=none --opt o=bind --opt device=/srv/data data",
		Args:              maxArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if v.Name = name; len(args) > 0 {
				if name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				v.Name = args[0]
			}
			if v.Name != "" {
				if err := volumeName(v.Name); err != nil {
					return err
				}
			}
			if v.Labels, err = labels(nil, labelled); err != nil {
				return err
			}
			if v.Options, err = labels(nil, options); err != nil {
				return err
			}
			made, err := a.engine().CreateVolume(cmd.Context(), v)
			if err != nil {
				return err
			}
			a.printf("%s\n", made.Name)
			return nil
		},
	}
	f := cmd.Flags()
	parsed(f, "driver", "d", "string", "Specify volume driver name (default local)", localDriver)
	list(f, "label", "", "Set metadata for a volume", appendTo(&labelled, plain))
	list(f, "opt", "o", "Set driver specific options", appendTo(&options, plain))
	f.StringVar(&name, "name", "", "Specify volume name")
	_ = f.MarkHidden("name")
	return cmd
}

func localDriver(s string) error {
	if s != "local" {
		return api.Errorf(api.Unsupported, "volume driver %q is not supported: volumes are local", s)
	}
	return nil
}

// volumeView is a volume as docker inspect prints it.
type volumeView struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
	Anonymous  bool
	Size       int64 `json:",omitempty"`
}

func viewOfVolume(v *api.Volume) volumeView {
	return volumeView{dockerTime(v.Created), "local", v.Labels, v.Mountpoint, v.Name, v.Options, "local", v.Anonymous, v.Size}
}

func (a *app) volumeInspect() *cobra.Command {
	var format string
	var all bool
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short:             "Display detailed information on one or more volumes",
		Example:           "  brig volume inspect data\n  brig volume inspect -f '{{.Mountpoint}}' data",
		Args:              allOr(&all, minArgs(1)),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.allVolumes(cmd, all, args)
			if err != nil {
				return err
			}
			views := []any{}
			failed := a.each(cmd.Context(), args, func(name string) (string, error) {
				v, err := a.engine().InspectVolume(cmd.Context(), name)
				if err != nil {
					return "", err
				}
				if format != "" {
					return "", printObject(a.streams.Stdout, format, viewOfVolume(&v))
				}
				views = append(views, viewOfVolume(&v))
				return "", nil
			})
			if format == "" {
				return errors.Join(printPretty(a.streams.Stdout, views), failed)
			}
			return failed
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Inspect all volumes")
	return cmd
}

// volumeRow is a volume as ls shows it; the field names are docker's.
type volumeRow struct {
	Availability, Driver, Group, Labels, Links, Mountpoint, Name, Scope, Size, Status string

	labels map[string]string
}

// Label returns one label's value, for {{.Label "key"}}.
func (r volumeRow) Label(key string) string { return r.labels[key] }

func (a *app) volumeList() *cobra.Command {
	var quiet, noHeading bool
	var format string
	filter := filters{}
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List volumes",
		Example:           "  brig volume ls\n  brig volume ls --filter dangling=true -q",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.engine().Volumes(cmd.Context())
			if err != nil {
				return err
			}
			var rows []volumeRow
			for i := range all {
				v := &all[i]
				if !matchesVolume(filter, v) {
					continue
				}
				rows = append(rows, volumeRow{
					Availability: "N/A", Driver: "local", Group: "N/A", Labels: labelText(v.Labels), Links: strconv.Itoa(len(v.Users)), Mountpoint: v.Mountpoint,
					Name: v.Name, Scope: "local", Size: "N/A", Status: "N/A", labels: v.Labels,
				})
			}
			if quiet && format == "" {
				format = "{{.Name}}"
			}
			titles := header{
				"Driver": "DRIVER", "Name": "VOLUME NAME", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Links": "LINKS", "Size": "SIZE",
				"Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS",
			}
			if noHeading {
				titles = nil
			}
			return printRows(a.streams.Stdout, format, "{{.Driver}}\t{{.Name}}", titles, rows)
		},
	}
	f := cmd.Flags()
	list(f, "filter", "f", `Provide filter values (e.g. "dangling=true"): dangling, driver, label, name`, filter.add("dangling", "driver", "label", "name"))
	f.StringVar(&format, "format", "", formatHelp)
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	f.BoolVar(&noHeading, "noheading", false, "Do not print headers")
	return cmd
}

func matchesVolume(f filters, v *api.Volume) bool {
	return f.any("name", func(s string) bool { return strings.Contains(v.Name, s) }) &&
		f.any("driver", func(s string) bool { return s == "local" }) &&
		f.any("dangling", func(s string) bool { return (s == "true" || s == "1") == (len(v.Users) == 0) }) &&
		f.labelled(v.Labels)
}

func (a *app) volumeRemove() *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] VOLUME [VOLUME...]",
		Short:             "Remove one or more volumes",
		Long:              "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
		Example:           "  brig volume rm data\n  brig volume rm $(brig volume ls -q --filter dangling=true)",
		Args:              allOr(&all, minArgs(1)),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.allVolumes(cmd, all, args)
			if err != nil {
				return err
			}
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				err := a.engine().RemoveVolume(cmd.Context(), name)
				if force && errors.Is(err, api.NotFound) {
					err = nil
				}
				return name, err
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Remove all volumes")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not complain about volumes that are not there")
	return cmd
}

// allOr is what a command line needs, unless --all says that it is about everything.
func allOr(all *bool, otherwise cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if *all {
			return maxArgs(0)(cmd, args)
		}
		return otherwise(cmd, args)
	}
}

// allVolumes are the volumes that were named, or all.
func (a *app) allVolumes(cmd *cobra.Command, all bool, args []string) ([]string, error) {
	if !all {
		return args, nil
	}
	volumes, err := a.engine().Volumes(cmd.Context())
	if err != nil {
		return nil, err
	}
	for i := range volumes {
		args = append(args, volumes[i].Name)
	}
	return args, nil
}

func (a *app) volumePrune() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove unused local volumes",
		Example:           "  brig volume prune\n  brig volume prune -a -f --filter label!=keep",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !p.filter.Until.IsZero() {
				return errors.New("invalid filter 'until': the filters are label, label!")
			}
			what := "anonymous local volumes"
			if p.filter.All {
				what = "all local volumes"
			}
			if !a.sure(p.force, "WARNING! This will remove "+what+" not used by at least one container.") {
				return nil
			}
			r, err := a.engine().PruneVolumes(cmd.Context(), p.filter)
			a.printPruned(r)
			return err
		},
	}
	cmd.Flags().BoolVarP(&p.filter.All, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	p.declare(cmd, `Provide filter values (e.g. "label=<label>")`)
	return cmd
}

func (a *app) volumeExists() *cobra.Command {
	return &cobra.Command{
		Use:               "exists VOLUME",
		Short:             "Tell by the exit status whether a volume exists",
		Example:           "  brig volume exists data || brig volume create data",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := a.engine().InspectVolume(cmd.Context(), args[0])
			if errors.Is(err, api.NotFound) {
				return &exitError{code: codeFailed}
			}
			return err
		},
	}
}

func (a *app) volumeExport() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:               "export [OPTIONS] VOLUME",
		Short:             "Export the files of a volume as a tar archive",
		Long:              "Write the files of a volume, with their owners and attributes, as a tar archive. What a container writes meanwhile is in it or not.",
		Example:           "  brig volume export -o data.tar data\n  brig volume export data | zstd >data.tar.zst",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" && a.terminalOutput() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			return a.engine().ExportVolume(cmd.Context(), args[0], file, a.streams)
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

func (a *app) volumeImport() *cobra.Command {
	return &cobra.Command{
		Use:     "import VOLUME FILE|-",
		Short:   "Import the files of a tar archive into a volume",
		Long:    "Unpack a tar archive, compressed or not, into a volume that is there. Files that the archive does not have stay.",
		Example: "  brig volume import data data.tar\n  brig volume export data | ssh host brig volume import data -",
		Args:    exactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeVolumes(cmd, args, begun)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[1]
			switch {
			case file == "":
				return errors.New("the source is empty: name a file, or use - for standard input")
			case file == "-" && a.streams.Terminal != nil:
				return errors.New("requested import from stdin, but stdin is a terminal: name a file or use a redirection")
			case file == "-":
				file = ""
			}
			return a.engine().ImportVolume(cmd.Context(), args[0], file, a.streams)
		},
	}
}

// completeVolumes offers the names of volumes that are not there already, those that a user named first.
func (a *app) completeVolumes(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	all, err := a.engine().Volumes(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	slices.SortStableFunc(all, func(x, y api.Volume) int { return cmp.Compare(len(x.Name)/64, len(y.Name)/64) })
	var names []string
	for _, v := range all {
		names = append(names, v.Name)
	}
	return offer(names, args, begun), cobra.ShellCompDirectiveNoFileComp
}
