package engine

import (
	"cmp"
	"time"

	"brig/api"
	"brig/internal/runtime"
)

// docker's defaults.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
)

// healthcheck is how a container is asked: as its image says, but for what the user says. nil: it is not.
func healthcheck(img *api.Healthcheck, s *api.HealthSpec) *api.Healthcheck {
	var h api.Healthcheck
	if img != nil {
		h = *img
	}
	if s != nil {
		if len(s.Test) > 0 {
			h.Test = s.Test
		}
		h.Interval, h.Timeout, h.StartPeriod = cmp.Or(s.Interval, h.Interval), cmp.Or(s.Timeout, h.Timeout), cmp.Or(s.StartPeriod, h.StartPeriod)
		h.StartInterval, h.Retries = cmp.Or(s.StartInterval, h.StartInterval), cmp.Or(s.Retries, h.Retries)
	}
	if len(h.Test) < 2 || h.Test[0] != "CMD" && h.Test[0] != "CMD-SHELL" { // NONE, or what docker passes over too
		return nil
	}
	h.Interval, h.StartInterval = least(h.Interval), least(h.StartInterval)
	h.Timeout, h.StartPeriod, h.Retries = max(h.Timeout, 0), max(h.StartPeriod, 0), max(h.Retries, 0)
	return &h
}

// least keeps an image from having its containers asked without a pause.
func least(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return max(d, 100*time.Millisecond)
}

// checkHealth refuses what docker and podman refuse.
func checkHealth(s *api.ContainerSpec) error {
	h := s.Health
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"interval", h.Interval}, {"timeout", h.Timeout}, {"start-period", h.StartPeriod}, {"start-interval", h.StartInterval}} {
		if d.d < 0 || d.d > 0 && d.d < time.Millisecond {
			return api.Errorf(api.InvalidArgument, "--health-%s %s: it cannot be less than 1ms", d.name, d.d)
		}
	}
	switch {
	case h.Retries < 0:
		return api.Errorf(api.InvalidArgument, "--health-retries cannot be negative")
	case h.OnFailure == api.UnhealthyRestart && s.AutoRemove:
		return api.Errorf(api.InvalidArgument, "conflicting options: cannot specify both --health-on-failure restart and --rm")
	}
	switch h.OnFailure {
	case "", api.UnhealthyKill, api.UnhealthyRestart, api.UnhealthyStop:
		return nil
	}
	return api.Errorf(api.InvalidArgument, "invalid --health-on-failure %q: use none, kill, restart or stop", h.OnFailure)
}

// healthSpec makes of a container's check what its keeper is told. config.json has been written.
func (e *Engine) healthSpec(c *api.Container) (runtime.HealthSpec, error) {
	limit := time.Duration(c.Spec.Timeout) * time.Second
	h := c.Healthcheck
	if h == nil {
		return runtime.HealthSpec{RunFor: limit}, nil
	}
	argv := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		argv = append([]string{"/bin/sh", "-c"}, argv...)
	}
	run, err := e.execProcess(c, &api.ExecSpec{Command: argv})
	if err != nil {
		return runtime.HealthSpec{}, err
	}
	v := runtime.HealthSpec{
		RunFor: limit, Process: &run.Process, User: run.User, Interval: cmp.Or(h.Interval, healthInterval), Timeout: cmp.Or(h.Timeout, healthTimeout), StartPeriod: h.StartPeriod,
		StartInterval: cmp.Or(h.StartInterval, healthStartInterval), Retries: cmp.Or(h.Retries, healthRetries),
	}
	if c.Spec.Health != nil && c.Spec.Health.OnFailure != "" {
		v.OnFailure = c.Spec.Health.OnFailure
		if v.StopSignal, err = parseSignal(stopSignal(c)); err != nil {
			return v, err
		}
		v.StopTimeout = time.Duration(stopSeconds(c, nil)) * time.Second
	}
	return v, nil
}
