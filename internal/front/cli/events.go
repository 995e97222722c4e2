package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) events() *cobra.Command {
	var o api.EventOptions
	filter := filters{}
	format := ""
	stream := true
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Get events of containers, images, volumes and networks as they happen",
		Long: "Get events as they happen, and with --since those that were. What happened is kept until the next boot, the last megabytes of it.\n" +
			"Events of containers are create, start, kill, oom, die, stop, restart, pause, unpause, rename, update, commit, destroy, exec_create, exec_start\n" +
			"and exec_die; of images pull, push, load, import, save, tag, untag and delete; of volumes create and destroy; of networks create, connect,\n" +
			"disconnect and destroy.",
		Example:           "  brig events --since 10m\n  brig events --filter event=die --filter label=tier=front\n  brig events --since 1h --until 0s --format json",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !stream && o.Until.IsZero() {
				o.Until = time.Now()
			}
			if !stream && o.Since.IsZero() {
				o.Since = time.Unix(0, 1)
			}
			print, err := eventPrinter(a.streams.Stdout, format)
			if err != nil {
				return err
			}
			return a.engine().Events(cmd.Context(), o, func(e api.Event) error {
				if !filter.event(&e) {
					return nil
				}
				return print(&e)
			})
		},
	}
	f := cmd.Flags()
	list(f, "filter", "f", "Filter output based on conditions provided: container, event, image, label, network, type, volume", filter.add("container", "event", "image", "label", "network", "type", "volume"))
	parsed(f, "format", "", "string", "Format output using a custom template: 'json' or a Go template", assign(&format, plain))
	at := func(s string) (time.Time, error) { return parseTime(s, time.Now()) }
	parsed(f, "since", "", "string", "Show all events created since timestamp", assign(&o.Since, at))
	parsed(f, "until", "", "string", "Stream events until this timestamp", assign(&o.Until, at))
	f.BoolVar(&stream, "stream", true, "Go on with new events; false: only those of the past")
	return cmd
}

// event reports whether an event passes every filter.
func (f filters) event(e *api.Event) bool {
	return f.any("container", func(v string) bool {
		return typeOf(e) == "container" && (e.Attributes["name"] == v || strings.HasPrefix(e.ID, v)) || v != "" && strings.HasPrefix(e.Attributes["container"], v)
	}) &&
		f.any("event", func(v string) bool { return e.Action == v || strings.HasPrefix(e.Action, v+":") }) &&
		f.any("image", func(v string) bool {
			return e.Type != "volume" && e.Type != "network" && tagged(first(e.Attributes["image"], e.Attributes["name"])) == tagged(v)
		}) &&
		f.any("volume", func(v string) bool { return e.Type == "volume" && e.ID == v }) &&
		f.any("type", func(v string) bool { return v == typeOf(e) }) &&
		f.any("network", func(v string) bool {
			return typeOf(e) == "network" && (e.Attributes["name"] == v || strings.HasPrefix(e.ID, v))
		}) &&
		f.labelled(e.Attributes)
}

// typeOf is what an event happened to.
func typeOf(e *api.Event) string { return first(e.Type, "container") }

// eventView is an event in the form of the Docker Engine API.
type eventView struct {
	Status   string `json:"status"`
	ID       string `json:"id"`
	From     string `json:"from"`
	Type     string
	Action   string
	Actor    eventActor
	Scope    string `json:"scope"`
	Time     int64  `json:"time"`
	TimeNano int64  `json:"timeNano"`
}

type eventActor struct {
	ID         string
	Attributes map[string]string
}

func viewEvent(e *api.Event) eventView {
	return eventView{
		Status: e.Action, ID: e.ID, From: e.Attributes["image"], Type: typeOf(e), Action: e.Action, Actor: eventActor{e.ID, e.Attributes},
		Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}

// eventPrinter returns what prints an event by a format.
func eventPrinter(out io.Writer, format string) (func(*api.Event) error, error) {
	switch format {
	case "":
		return func(e *api.Event) error {
			var all []string
			for k, v := range e.Attributes {
				all = append(all, k+"="+v)
			}
			slices.Sort(all)
			_, err := fmt.Fprintf(out, "%s %s %s %s (%s)\n", e.Time.Local().Format(logTime), typeOf(e), e.Action, e.ID, strings.Join(all, ", "))
			return err
		}, nil
	case "json", "{{json .}}":
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return func(e *api.Event) error { return enc.Encode(viewEvent(e)) }, nil
	}
	var t *template.Template
	t, err := parseTemplate(format)
	return func(e *api.Event) error { return executeLine(out, t, viewEvent(e)) }, err
}
