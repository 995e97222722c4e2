// Package metrics tells of containers and the store in the text format of Prometheus (version 0.0.4). Where cAdvisor has a name for a figure it is
// that name, so that dashboards made for it show Brig's containers.
package metrics

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"brig/api"
)

// Source is what is asked: the engine.
type Source interface {
	List(ctx context.Context) ([]api.Container, error)
	Stats(ctx context.Context, name string) (api.Container, api.Usage, error)
	DiskUsage(ctx context.Context) (api.DiskUsage, error)
}

// diskAge is how old figures of the disk may be: to get them every file of the store is looked at.
const diskAge = time.Minute

// Exporter tells what a source knows. It is safe for use by several goroutines.
type Exporter struct {
	source  Source
	version string

	mu     sync.Mutex // one look at the disk at a time
	disk   api.DiskUsage
	looked time.Time
}

// New returns an exporter of a Brig of this version.
func New(source Source, version string) *Exporter { return &Exporter{source: source, version: version} }

// usage is a container, and what it has used so far.
type usage struct {
	api.Container
	api.Usage
}

// figure is a metric that every container that runs has one value of.
type figure struct {
	name, kind, help string
	of               func(*usage) (v float64, ok bool)
}

func figures() []figure {
	const counter, gauge = "counter", "gauge"
	used := func(f func(*usage) uint64) func(*usage) (float64, bool) {
		return func(u *usage) (float64, bool) { return float64(f(u)), !u.At.IsZero() }
	}
	return []figure{
		{"container_start_time_seconds", gauge, "When the container was started, in seconds since 1970.", func(u *usage) (float64, bool) {
			return float64(u.State.StartedAt.UnixMilli()) / 1000, true
		}},
		{"container_cpu_usage_seconds_total", counter, "Processor time of all processors together.", func(u *usage) (float64, bool) { return u.CPU.Seconds(), !u.At.IsZero() }},
		{"container_memory_working_set_bytes", gauge, "Memory without the part of the page cache that nobody asks for.", used(func(u *usage) uint64 { return u.Memory })},
		{"container_spec_memory_limit_bytes", gauge, "What it may use of memory; 0: no limit of its own.", func(u *usage) (float64, bool) { return float64(u.Spec.Limits.Memory), true }},
		{"container_processes", gauge, "Processes and threads.", used(func(u *usage) uint64 { return u.Pids })},
		{"container_network_receive_bytes_total", counter, "Bytes received on all interfaces but loopback.", used(func(u *usage) uint64 { return u.NetIn })},
		{"container_network_transmit_bytes_total", counter, "Bytes sent on all interfaces but loopback.", used(func(u *usage) uint64 { return u.NetOut })},
		{"container_fs_reads_bytes_total", counter, "Bytes read from devices.", used(func(u *usage) uint64 { return u.BlockIn })},
		{"container_fs_writes_bytes_total", counter, "Bytes written to devices.", used(func(u *usage) uint64 { return u.BlockOut })},
		{"brig_container_healthy", gauge, "1 if the last health check said so, 0 if not; containers without a check have none.", func(u *usage) (float64, bool) {
			h := u.State.Health
			if h == nil {
				return 0, false
			}
			if h.Status == api.HealthHealthy {
				return 1, true
			}
			return 0, true
		}},
		{"brig_container_restarts_total", counter, "How often its policy has started it, since a user did.", func(u *usage) (float64, bool) { return float64(u.State.Restarts), true }},
	}
}

// Write tells all there is to tell. Containers that end meanwhile are left out; what one has used is not known where it has no control group.
func (e *Exporter) Write(ctx context.Context, w io.Writer) error {
	list, err := e.source.List(ctx)
	if err != nil && len(list) == 0 {
		return err
	}
	states := map[api.Status]int{api.StatusCreated: 0, api.StatusRunning: 0, api.StatusPaused: 0, api.StatusRestarting: 0, api.StatusExited: 0, api.StatusDead: 0}
	var running []*usage
	for _, c := range list {
		states[c.State.Status]++
		if c.State.Status != api.StatusRunning && c.State.Status != api.StatusPaused {
			continue
		}
		_, used, err := e.source.Stats(ctx, c.ID)
		if err != nil && !errors.Is(err, api.Unsupported) || err == nil && used.At.IsZero() {
			continue // it has ended
		}
		running = append(running, &usage{c, used})
	}
	disk, diskErr := e.diskUsage(ctx)

	b := bufio.NewWriter(w)
	head := func(name, kind, help string) {
		b.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
	}
	head("brig_build_info", "gauge", "Always 1; the label tells the version.")
	sample(b, "brig_build_info", 1, "version", e.version)
	head("brig_containers", "gauge", "Containers by their state.")
	for _, s := range slices.Sorted(maps.Keys(states)) {
		sample(b, "brig_containers", float64(states[s]), "state", string(s))
	}
	for _, f := range figures() {
		head(f.name, f.kind, f.help)
		for _, u := range running {
			if v, ok := f.of(u); ok {
				sample(b, f.name, v, "id", u.ID, "name", u.Name, "image", u.ImageName)
			}
		}
	}
	if diskErr == nil {
		head("brig_store_bytes", "gauge", "What the store takes on the disk, by kind.")
		for _, t := range disk.Types {
			sample(b, "brig_store_bytes", float64(t.Size), "type", t.Type)
		}
		head("brig_store_reclaimable_bytes", "gauge", "What prune would give back, by kind.")
		for _, t := range disk.Types {
			sample(b, "brig_store_reclaimable_bytes", float64(t.Reclaimable), "type", t.Type)
		}
		head("brig_store_limit_bytes", "gauge", "What the store may take on the disk; 0: no limit.")
		sample(b, "brig_store_limit_bytes", float64(disk.Limit))
	}
	head("brig_store_readable", "gauge", "1 if all records and the store could be read, 0 if something is damaged: brig system check says what.")
	whole := 1.0
	if err != nil || diskErr != nil {
		whole = 0
	}
	sample(b, "brig_store_readable", whole)
	return b.Flush()
}

func (e *Exporter) diskUsage(ctx context.Context) (api.DiskUsage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.looked) < diskAge {
		return e.disk, nil
	}
	u, err := e.source.DiskUsage(ctx)
	if err == nil {
		e.disk, e.looked = u, time.Now()
	}
	return u, err
}

// sample writes one value with its labels, names and values in turns.
func sample(b *bufio.Writer, name string, v float64, labels ...string) {
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(labels[i] + `="`)
		for _, r := range strings.ToValidUTF8(labels[i+1], "\uFFFD") {
			switch r {
			case '\\', '"':
				b.WriteByte('\\')
				b.WriteRune(r)
			case '\n':
				b.WriteString(`\n`)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte('"')
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(strconv.FormatFloat(v, 'f', -1, 64))
	b.WriteByte('\n')
}

// ServeHTTP answers GET and HEAD of /metrics.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/metrics" {
		http.Error(w, "metrics are at /metrics", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	var out strings.Builder // so that a failure can still be told as one
	if err := e.Write(r.Context(), &out); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = io.WriteString(w, out.String())
}
