package engine

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"brig/api"
	"brig/internal/runtime/shim"
)

// TestHealthcheck: what a user says changes the image's check field by field, NONE turns it off, and no image can ask without a pause.
func TestHealthcheck(t *testing.T) {
	img := &api.Healthcheck{Test: []string{"CMD", "ask"}, Interval: time.Minute, Retries: 5}
	for name, c := range map[string]struct {
		img  *api.Healthcheck
		spec *api.HealthSpec
		want *api.Healthcheck
	}{
		"neither":         {nil, nil, nil},
		"image":           {img, nil, img},
		"user":            {nil, &api.HealthSpec{Healthcheck: *img}, img},
		"changed":         {img, &api.HealthSpec{Healthcheck: api.Healthcheck{Test: []string{"CMD-SHELL", "x"}, Retries: 1}}, &api.Healthcheck{Test: []string{"CMD-SHELL", "x"}, Interval: time.Minute, Retries: 1}},
		"off":             {img, &api.HealthSpec{Healthcheck: api.Healthcheck{Test: []string{"NONE"}}}, nil},
		"no command":      {nil, &api.HealthSpec{Healthcheck: api.Healthcheck{Interval: time.Second}}, nil},
		"without a pause": {&api.Healthcheck{Test: []string{"CMD", "x"}, Interval: 1, StartInterval: -5, Timeout: -1, Retries: -1}, nil, &api.Healthcheck{Test: []string{"CMD", "x"}, Interval: 100 * time.Millisecond}},
		"unknown kind":    {&api.Healthcheck{Test: []string{"HTTP", "/"}}, nil, nil},
		"empty":           {&api.Healthcheck{Test: []string{"CMD"}}, nil, nil},
	} {
		if got := healthcheck(c.img, c.spec); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestDue is docker's table of restart policies.
func TestDue(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "test")
	ended := func(code int, unhealthy string) *shim.ExitRecord {
		return &shim.ExitRecord{Exit: api.Exit{Code: code}, Unhealthy: unhealthy}
	}
	for _, c := range []struct {
		policy     string
		exit       *shim.ExitRecord
		stopped    bool
		live, boot bool
	}{
		{"", ended(1, ""), false, false, false},
		{"no", ended(1, ""), false, false, false},
		{"always", ended(0, ""), false, true, true},
		{"always", ended(0, ""), true, false, true},
		{"unless-stopped", ended(0, ""), false, true, true},
		{"unless-stopped", ended(0, ""), true, false, false},
		{"on-failure", ended(0, ""), false, false, false},
		{"on-failure", ended(1, ""), false, true, true},
		{"on-failure", nil, false, true, true}, // the machine stopped under it
		{"on-failure", ended(1, ""), true, false, false},
		{"no", ended(137, api.UnhealthyRestart), false, true, false},
		{"no", ended(137, api.UnhealthyRestart), true, false, false},
		{"always", ended(137, api.UnhealthyStop), false, false, true},
		{"always", ended(137, api.UnhealthyKill), false, true, true},
	} {
		ct := &api.Container{ID: "x", Spec: api.ContainerSpec{Restart: api.RestartPolicy{Name: c.policy}}}
		if c.stopped {
			makeFile(t, e.stoppedPath("x"))
		} else {
			removeFile(t, e.stoppedPath("x"))
		}
		if live, boot := e.due(ct, c.exit, false), e.due(ct, c.exit, true); live != c.live || boot != c.boot {
			t.Errorf("%+v of %+v: %t, at boot %t", c, c.exit, live, boot)
		}
	}
}

func makeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
