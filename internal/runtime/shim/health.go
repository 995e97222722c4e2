package shim

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
	"brig/internal/runtime"
	"brig/internal/runtime/shim/wire"
)

// HealthName is the shim's record of its container's health, an api.Health, in the sandbox's folder.
const HealthName = "health.json"

// docker's: how many probes are told, and how many bytes of what each printed.
const (
	healthLog    = 5
	healthOutput = 4096
)

// renewPause is how long the shim has to have nothing to do for it to execute itself anew after a probe.
const renewPause = 5 * time.Second

// health asks a container at intervals whether it is well.
type health struct {
	c     *container
	spec  runtime.HealthSpec
	state api.Health
	well  bool // it has been, so that the time to start is over
	due   time.Time

	probe  *stream // the one that runs, nil: none does
	begun  time.Time
	output []byte
	late   bool // it was killed, for it took too long

	killAt time.Time // of a container that was asked to end for being unhealthy
	endAt  time.Time // of one that may run for so long; zero: there is no such time
}

// watchHealth begins the probes of a container that has started, or goes on with them.
func (c *container) watchHealth(spec runtime.HealthSpec) {
	if spec.Process == nil && spec.RunFor == 0 {
		return
	}
	h := &health{c: c, spec: spec, state: api.Health{Status: api.HealthStarting}}
	if spec.RunFor > 0 {
		h.endAt = c.startedAt.Add(spec.RunFor)
	}
	if spec.Process == nil {
		c.health = h
		return
	}
	if old, err := ReadHealth(c.s.dir); err == nil { // from before the shim executed itself anew
		h.state = old
		h.well = old.Status != api.HealthStarting // or it does not matter any more
	}
	h.schedule(time.Now())
	c.health = h
	h.keep()
}

// schedule plans the next probe.
func (h *health) schedule(now time.Time) {
	wait := h.spec.Interval
	if h.spec.StartPeriod > 0 && !h.well && now.Before(h.c.startedAt.Add(h.spec.StartPeriod)) {
		wait = h.spec.StartInterval
	}
	h.due = now.Add(wait)
}

// next is when something is to be done; the zero time: never.
func (h *health) next() time.Time {
	at := h.nextProbe()
	if h.c.exit == nil && !h.endAt.IsZero() && (at.IsZero() || h.endAt.Before(at)) {
		return h.endAt
	}
	return at
}

// nextProbe is next for who may run for ever.
func (h *health) nextProbe() time.Time {
	switch {
	case h.c.exit != nil || h.spec.Process == nil:
		return time.Time{}
	case !h.killAt.IsZero():
		return h.killAt
	case h.probe != nil && h.late:
		return time.Time{} // it was killed
	}
	return h.due
}

// tick does what is due; it reports whether that was anything.
func (h *health) tick(now time.Time) bool {
	next := h.next()
	if next.IsZero() || now.Before(next) {
		return false
	}
	switch {
	case next.Equal(h.endAt):
		h.endAt = time.Time{}
		_ = os.WriteFile(filepath.Join(h.c.s.dir, AskedName), []byte("it had run for as long as --timeout allows"), 0o600) // it is but a reason
		h.c.kill()
	case !h.killAt.IsZero():
		h.killAt = time.Time{}
		h.due = now.Add(h.spec.Interval)
		_ = unix.PidfdSendSignal(h.c.proc.PidFD, unix.SIGKILL, nil, 0)
	case h.probe != nil:
		h.late = true
		_ = unix.PidfdSendSignal(h.probe.proc.PidFD, unix.SIGKILL, nil, 0)
	default:
		h.ask(now)
	}
	return true
}

// ask starts a probe. In a container that stands still none would get on.
func (h *health) ask(now time.Time) {
	if g, err := h.c.group(); err == nil && g != nil {
		if frozen, err := g.Frozen(); err == nil && frozen {
			h.schedule(now)
			return
		}
	}
	h.begun, h.output, h.late = now, nil, false
	t, err := h.start()
	if err != nil {
		h.answer(now, api.Exit{Code: -1, Error: err.Error()})
		return
	}
	h.probe, h.due = t, now.Add(h.spec.Timeout)
}

// start executes the probe's process, as an exec that somebody asked for would be.
func (h *health) start() (*stream, error) {
	t, err := h.c.spawn(&wire.Request{Process: h.spec.Process, User: h.spec.User}, nil)
	if err != nil {
		return nil, err
	}
	t.tap = func(b []byte) { h.output = append(h.output, b[:min(len(b), healthOutput-len(h.output))]...) }
	t.ended = func(e api.Exit) {
		delete(h.c.s.execs, t)
		h.probe = nil
		h.answer(time.Now(), e)
	}
	h.c.s.execs[t] = true
	t.run()
	if err := t.proc.Start(); err != nil {
		t.ended = func(api.Exit) { delete(h.c.s.execs, t) } // the error is the answer
		return nil, err
	}
	return t, nil
}

// answer takes a probe's result.
func (h *health) answer(now time.Time, e api.Exit) {
	if h.c.exit != nil {
		return
	}
	p := api.HealthProbe{Start: h.begun.UTC(), End: now.UTC(), ExitCode: e.Code, Output: string(h.output)}
	switch {
	case h.late:
		p.ExitCode, p.Output = -1, "Health check exceeded timeout ("+h.spec.Timeout.String()+"): "+p.Output
	case e.Error != "" && p.Output == "":
		p.Output = e.Error
	}
	h.output = nil
	h.state.Log = append(h.state.Log, p)
	h.state.Log = h.state.Log[max(0, len(h.state.Log)-healthLog):]
	before := h.state.Status
	if p.ExitCode == 0 {
		h.well = true
		h.state.Status, h.state.FailingStreak = api.HealthHealthy, 0
	} else if h.well || !h.begun.Before(h.c.startedAt.Add(h.spec.StartPeriod)) { // what fails while it starts does not count
		if h.state.FailingStreak++; h.state.FailingStreak >= h.spec.Retries {
			h.state.Status = api.HealthUnhealthy
		}
	}
	h.schedule(now)
	h.keep()
	if h.spec.Interval >= renewPause { // what a probe took is worth being given back
		h.c.s.renewed = false
	}
	if h.state.Status == api.HealthUnhealthy && before != api.HealthUnhealthy {
		h.act(now)
	}
}

// keep writes down how the container is. On a full disk the last record stands.
func (h *health) keep() {
	if data, err := record.Marshal(h.state); err == nil {
		_ = atomicfile.Write(filepath.Join(h.c.s.dir, HealthName), data, 0o600, atomicfile.Volatile)
	}
}

// act does with a container that has become unhealthy what was asked for.
func (h *health) act(now time.Time) {
	sig := h.spec.StopSignal
	switch h.spec.OnFailure {
	case api.UnhealthyKill:
		sig = unix.SIGKILL
	case api.UnhealthyRestart, api.UnhealthyStop:
		if h.spec.StopTimeout >= 0 {
			h.killAt = now.Add(h.spec.StopTimeout)
		}
	default:
		return
	}
	h.c.unhealthy = h.spec.OnFailure
	_ = unix.PidfdSendSignal(h.c.proc.PidFD, sig, nil, 0)
}

// ReadHealth reads the record of the container's health in the sandbox in dir; api.NotFound when it is not asked for.
func ReadHealth(dir string) (h api.Health, err error) {
	path := filepath.Join(dir, HealthName)
	data, err := os.ReadFile(path)
	if err != nil {
		return h, &api.Error{Kind: api.NotFound, Err: err}
	}
	if err := jsonscan.Decode(data, &h, readHealth); err != nil {
		return h, api.Errorf(api.Corrupt, "%s: %w", path, err)
	}
	return h, nil
}
