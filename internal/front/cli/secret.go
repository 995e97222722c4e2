package cli

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// secretGroup has podman's commands: docker's need a swarm.
func (a *app) secretGroup() *cobra.Command {
	return a.group("secret", "Manage secrets", "  brig secret create password FILE\n  printf %s \"$PASSWORD\" | brig secret create password -", []member{
		{name: "create", construct: (*app).secretCreate}, {name: "exists", construct: (*app).secretExists}, {name: "inspect", construct: (*app).secretInspect},
		{name: "ls", construct: (*app).secretList, aliases: []string{"list"}}, {name: "rm", construct: (*app).secretRemove},
	})
}

// parseSecret reads one --secret: NAME[,type=mount|env][,target=…][,uid=…][,gid=…][,mode=…], or source=NAME among these.
func parseSecret(s string) (api.SecretSpec, error) {
	var spec api.SecretSpec
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return spec, fmt.Errorf("invalid secret %q: %w", s, err)
	}
	owned := "" // an option that only a file has
	for i, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		if i == 0 && !ok {
			spec.Source = field
			continue
		}
		switch {
		case !ok:
			return spec, fmt.Errorf("invalid secret %q: %q must be a key=value pair", s, field)
		case key == "source" && spec.Source == "":
			spec.Source = val
		case key == "type" && (val == "mount" || val == "env"):
			spec.Env = val == "env"
		case key == "type":
			return spec, fmt.Errorf("invalid secret %q: type %s is invalid: use mount or env", s, val)
		case key == "target":
			spec.Target = val
		case key == "uid" || key == "gid":
			n, err := strconv.ParseUint(val, 10, 32)
			if err != nil || n == 1<<32-1 {
				return spec, fmt.Errorf("invalid secret %q: %s %q is no id", s, key, val)
			}
			if owned = key; key == "uid" {
				spec.UID = uint32(n)
			} else {
				spec.GID = uint32(n)
			}
		case key == "mode":
			n, err := strconv.ParseUint(val, 8, 32)
			if err != nil || n > 0o777 || n == 0 {
				return spec, fmt.Errorf("invalid secret %q: mode %q: use octal permission bits", s, val)
			}
			owned, spec.Mode = key, uint32(n)
		default:
			return spec, fmt.Errorf("invalid secret %q: unknown option %s: use type, target, uid, gid or mode", s, key)
		}
	}
	switch {
	case spec.Source == "":
		return spec, fmt.Errorf("invalid secret %q: no source found", s)
	case spec.Env && owned != "":
		return spec, fmt.Errorf("invalid secret %q: %s is for a secret of type mount", s, owned)
	}
	return spec, nil
}

func (a *app) secretCreate() *cobra.Command {
	var env, replace bool
	var labelled []string
	cmd := &cobra.Command{
		Use:     "create [OPTIONS] NAME FILE|-",
		Short:   "Create a secret from a file or from standard input",
		Example: "  brig secret create tls.key /etc/ssl/tls.key\n  brig secret create --env token TOKEN",
		Args:    exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := api.Secret{Name: args[0]}
			var err error
			if s.Labels, err = labels(nil, labelled); err != nil {
				return err
			}
			data, err := a.secretData(args[1], env)
			if err != nil {
				return err
			}
			if s, err = a.engine().CreateSecret(cmd.Context(), s, data, replace); err != nil {
				return err
			}
			a.printf("%s\n", s.ID)
			return nil
		},
	}
	f := cmd.Flags()
	parsed(f, "driver", "d", "string", "Specify secret driver (default file)", secretDriver)
	list(f, "driver-opts", "", "Specify driver specific options", func(o string) error {
		return api.Errorf(api.Unsupported, "driver option %s: the driver file has none", o)
	})
	f.BoolVar(&env, "env", false, "Read secret data from environment variable")
	list(f, "label", "l", "Specify labels on the secret", appendTo(&labelled, plain))
	f.BoolVar(&replace, "replace", false, "If a secret with the same name exists, replace it")
	return cmd
}

func secretDriver(s string) error {
	if s != "file" {
		return api.Errorf(api.Unsupported, "secret driver %q is not supported: secrets are files of root's, or of the user's", s)
	}
	return nil
}

// secretData reads what is to be kept, and not much more than may be.
func (a *app) secretData(from string, env bool) ([]byte, error) {
	if env {
		v, ok := os.LookupEnv(from)
		if !ok {
			return nil, fmt.Errorf("cannot create store secret data: environment variable %s is not set", from)
		}
		return []byte(v), nil
	}
	in := a.streams.Stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	if in == nil {
		return nil, errors.New("there is no standard input")
	}
	return io.ReadAll(io.LimitReader(in, api.MaxSecret+1))
}

// secretView is a secret as podman inspect prints it.
type secretView struct {
	ID        string
	CreatedAt time.Time
	UpdatedAt time.Time
	Spec      secretViewSpec
}

type secretViewSpec struct {
	Name   string
	Driver struct {
		Name    string
		Options map[string]string
	}
	Labels map[string]string
}

func viewOfSecret(s *api.Secret) secretView {
	v := secretView{ID: s.ID, CreatedAt: s.Created, UpdatedAt: s.Updated}
	v.Spec.Name, v.Spec.Labels, v.Spec.Driver.Name = s.Name, s.Labels, "file"
	v.Spec.Driver.Options = map[string]string{}
	if v.Spec.Labels == nil {
		v.Spec.Labels = map[string]string{}
	}
	return v
}

func (a *app) secretInspect() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] SECRET [SECRET...]",
		Short:             "Display information on one or more secrets, but not what they are",
		Example:           "  brig secret inspect password\n  brig secret inspect -f '{{.Spec.Name}}' password",
		Args:              minArgs(1),
		ValidArgsFunction: a.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			views := []any{}
			failed := a.each(cmd.Context(), args, func(name string) (string, error) {
				s, err := a.engine().InspectSecret(cmd.Context(), name)
				if err != nil {
					return "", err
				}
				if format != "" {
					return "", printObject(a.streams.Stdout, format, viewOfSecret(&s))
				}
				views = append(views, viewOfSecret(&s))
				return "", nil
			})
			if format == "" {
				return errors.Join(printPretty(a.streams.Stdout, views), failed)
			}
			return failed
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}

// secretRow is a secret as ls shows it; the field names are podman's.
type secretRow struct{ ID, Name, Driver, CreatedAt, UpdatedAt string }

func (a *app) secretList() *cobra.Command {
	var quiet, noHeading bool
	var format string
	filter := filters{}
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List secrets",
		Example:           "  brig secret ls\n  brig secret ls --filter name=password -q",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.engine().Secrets(cmd.Context())
			if err != nil {
				return err
			}
			var rows []secretRow
			now := time.Now()
			for i := range all {
				s := &all[i]
				if filter.any("name", func(n string) bool { return strings.Contains(s.Name, n) }) && filter.any("id", func(n string) bool { return strings.HasPrefix(s.ID, n) }) {
					rows = append(rows, secretRow{s.ID, s.Name, "file", ago(now, s.Created), ago(now, s.Updated)})
				}
			}
			standard := "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}"
			switch {
			case quiet && format == "":
				format = "{{.ID}}"
			case noHeading && format == "":
				format = standard
			}
			return printRows(a.streams.Stdout, format, standard, header{"ID": "ID", "Name": "NAME", "Driver": "DRIVER", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED"}, rows)
		},
	}
	f := cmd.Flags()
	list(f, "filter", "f", "Filter secret output: id, name", filter.add("id", "name"))
	f.StringVar(&format, "format", "", formatHelp)
	f.BoolVar(&noHeading, "noheading", false, "Do not print headers")
	f.BoolVarP(&quiet, "quiet", "q", false, "Print secret IDs only")
	return cmd
}

func (a *app) secretRemove() *cobra.Command {
	var all, ignore bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] SECRET [SECRET...]",
		Short:             "Remove one or more secrets; containers that have them keep their copies",
		Example:           "  brig secret rm password\n  brig secret rm --all",
		ValidArgsFunction: a.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return errors.New("`brig secret rm` takes no arguments when used with `--all`")
			case !all && len(args) == 0:
				return minArgs(1)(cmd, args)
			case all:
				list, err := a.engine().Secrets(cmd.Context())
				if err != nil {
					return err
				}
				for _, s := range list {
					args = append(args, s.Name)
				}
			}
			return a.each(cmd.Context(), args, func(name string) (string, error) {
				id, err := a.engine().RemoveSecret(cmd.Context(), name)
				if ignore && errors.Is(err, api.NotFound) {
					err = nil
				}
				return id, err
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Remove all secrets")
	cmd.Flags().BoolVarP(&ignore, "ignore", "i", false, "Ignore errors when a specified secret is missing")
	return cmd
}

func (a *app) secretExists() *cobra.Command {
	return &cobra.Command{
		Use:               "exists SECRET",
		Short:             "Tell by the exit status whether a secret exists",
		Example:           "  brig secret exists password || brig secret create password FILE",
		Args:              exactArgs(1),
		ValidArgsFunction: a.completeSecrets,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := a.engine().InspectSecret(cmd.Context(), args[0])
			if errors.Is(err, api.NotFound) {
				return &exitError{code: codeFailed}
			}
			return err
		},
	}
}

func (a *app) completeSecrets(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	all, _ := a.engine().Secrets(cmd.Context())
	slices.SortFunc(all, func(x, y api.Secret) int { return cmp.Compare(x.Name, y.Name) })
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return offer(names, args, begun), cobra.ShellCompDirectiveNoFileComp
}
