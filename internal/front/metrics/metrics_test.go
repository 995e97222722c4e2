package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"brig/api"
)

type fake struct {
	list  []api.Container
	err   error
	looks int
}

func (f *fake) List(context.Context) ([]api.Container, error) { return f.list, f.err }

func (f *fake) Stats(_ context.Context, id string) (api.Container, api.Usage, error) {
	for _, c := range f.list {
		if c.ID == id && c.Name != "gone" {
			return c, api.Usage{At: time.Now(), CPU: 1500 * time.Millisecond, Memory: 1 << 40, Pids: 3, NetIn: 1<<53 + 1}, nil
		}
	}
	return api.Container{}, api.Usage{}, api.Errorf(api.NotFound, "no such container")
}

func (f *fake) DiskUsage(context.Context) (api.DiskUsage, error) {
	f.looks++
	return api.DiskUsage{Limit: 9, Types: []api.TypeUsage{{Type: "Images", Size: 77, Reclaimable: 7}}}, nil
}

func get(e *Exporter, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestExposition(t *testing.T) {
	run := func(id, name string) api.Container {
		return api.Container{ID: id, Name: name, ImageName: "a\"b\\c\nd", State: api.State{Status: api.StatusRunning, StartedAt: time.Unix(100, 0), Restarts: 2}}
	}
	sick := run("2", "sick")
	sick.State.Health = &api.Health{Status: api.HealthUnhealthy}
	f := &fake{list: []api.Container{run("1", "web"), sick, run("3", "gone"), {ID: "4", State: api.State{Status: api.StatusExited}}}}
	e := New(f, "1.2")
	w := get(e, http.MethodGet, "/metrics")
	if ct := w.Header().Get("Content-Type"); w.Code != 200 || !strings.HasPrefix(ct, "text/plain; version=0.0.4") {
		t.Errorf("%d %s", w.Code, ct)
	}
	const labels = `,image="a\"b\\c\nd"} `
	for _, want := range []string{
		`brig_build_info{version="1.2"} 1`, `brig_containers{state="running"} 3`, `brig_containers{state="exited"} 1`, `brig_containers{state="paused"} 0`,
		`container_cpu_usage_seconds_total{id="1",name="web"` + labels + `1.5`, `container_memory_working_set_bytes{id="1",name="web"` + labels + `1099511627776`,
		`container_start_time_seconds{id="2",name="sick"` + labels + `100`, `brig_container_healthy{id="2",name="sick"` + labels + `0`,
		`brig_container_restarts_total{id="1",name="web"` + labels + `2`, `brig_store_bytes{type="Images"} 77`, `brig_store_limit_bytes 9`, `brig_store_readable 1`,
		"# TYPE container_cpu_usage_seconds_total counter",
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("missing: %s\n%s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), `"gone"`) || strings.Contains(w.Body.String(), `brig_container_healthy{id="1"`) {
		t.Errorf("told of what is not there:\n%s", w.Body)
	}
	if get(e, http.MethodGet, "/metrics"); f.looks != 1 {
		t.Errorf("looked at the disk %d times within a minute", f.looks)
	}
}

func TestOthersAreRefused(t *testing.T) {
	e := New(&fake{err: errors.New("unreadable")}, "")
	for path, want := range map[string]int{"GET /": 404, "GET /metrics/x": 404, "POST /metrics": 405, "GET /metrics": 500} {
		method, path, _ := strings.Cut(path, " ")
		if w := get(e, method, path); w.Code != want {
			t.Errorf("%s %s: %d, want %d", method, path, w.Code, want)
		}
	}
	// Damage is told as long as something can be.
	e = New(&fake{err: errors.New("one is unreadable"), list: []api.Container{{ID: "4"}}}, "")
	if w := get(e, http.MethodGet, "/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "brig_store_readable 0\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
