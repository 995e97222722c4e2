package cli

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/api"
)

// fake is an engine that records its calls and answers as the test says. The methods that a test does not prepare answer with
// nothing, or that the thing is not there.
type fake struct {
	found  string // of an attempt that should hold
	Engine        // nil: a method that the door should not call panics

	calls      []string
	spec       api.ContainerSpec
	attach     *api.Attach
	exec       api.ExecSpec
	logOptions api.LogOptions
	request    api.TransferRequest
	reply      api.TransferReply
	containers []api.Container
	networks   []api.Network
	imgs       []api.Image
	kernels    []api.VMKernel
	detail     api.ImageDetail // but for the image and its names
	log        []api.LogEntry
	info       api.Info
	usage      api.DiskUsage
	pruned     api.PruneReport
	checked    api.CheckReport
	limit      int64
	happened   []api.Event
	used       api.Usage // at first; each second it takes 1.5 s of processor time
	session    *api.Session
	exit       api.Exit
	err        error            // of Run, Create, Start, Exec, Attach, Transfer, Info, Reap
	fails      map[string]error // by container name
	during     func(context.Context, *fake, api.Streams) error
}

const testID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func (f *fake) call(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) Create(ctx context.Context, spec api.ContainerSpec, out api.Streams) (api.Container, error) {
	f.call("create")
	f.spec = spec
	if f.during != nil {
		if err := f.during(ctx, f, out); err != nil {
			return api.Container{}, err
		}
	}
	if f.err != nil {
		return api.Container{}, f.err
	}
	return api.Container{ID: testID}, nil
}

func (f *fake) Run(ctx context.Context, spec api.ContainerSpec, a *api.Attach, out api.Streams) (api.Container, *api.Session, error) {
	f.attach = a
	c, err := f.Create(ctx, spec, out)
	f.calls[len(f.calls)-1] = "run"
	return c, f.open(), err
}

// open returns the prepared session, or one that ends at once.
func (f *fake) open() *api.Session {
	if f.session != nil {
		return f.session
	}
	return &api.Session{Wait: func(context.Context) (api.Exit, error) { return f.exit, nil }}
}

func (f *fake) Init(_ context.Context, id string) error {
	f.call("init %s", id)
	return f.fails[id]
}

func (f *fake) Start(_ context.Context, id string, a *api.Attach) (*api.Session, error) {
	f.call("start %s", id)
	f.attach = a
	if err := f.fails[id]; err != nil {
		return nil, err
	}
	return f.open(), f.err
}

func (f *fake) Attach(_ context.Context, name string, a api.Attach) (*api.Session, error) {
	f.call("attach %s", name)
	f.attach = &a
	return f.open(), f.err
}

func (f *fake) Stop(_ context.Context, name string, o api.StopOptions) error {
	f.call("stop %s%s", name, stopText(o))
	return f.fails[name]
}

func (f *fake) Restart(_ context.Context, name string, o api.StopOptions) error {
	f.call("restart %s%s", name, stopText(o))
	return f.fails[name]
}

func stopText(o api.StopOptions) (s string) {
	if o.Signal != "" {
		s = " " + o.Signal
	}
	if o.Timeout != nil {
		s += fmt.Sprintf(" %d", *o.Timeout)
	}
	return s
}

func (f *fake) Pause(_ context.Context, name string) error {
	f.call("pause %s", name)
	return f.fails[name]
}

func (f *fake) Unpause(_ context.Context, name string) error {
	f.call("unpause %s", name)
	return f.fails[name]
}

func (f *fake) Rename(_ context.Context, name, to string) error {
	f.call("rename %s %s", name, to)
	return f.fails[name]
}

func (f *fake) Update(_ context.Context, name string, change api.Resources, _ *api.RestartPolicy) error {
	f.call("update %s", name)
	f.spec.Limits = change
	return f.fails[name]
}

func (f *fake) Stats(ctx context.Context, name string) (api.Container, api.Usage, error) {
	c, err := f.Inspect(ctx, name)
	f.used.At = f.used.At.Add(time.Second)
	f.used.CPU += 1500 * time.Millisecond
	return c, f.used, err
}

func (f *fake) Top(_ context.Context, name string, words []string) (api.ProcessList, error) {
	f.call("top %s %q", name, words)
	return api.ProcessList{Titles: []string{"PID", "CMD"}, Rows: [][]string{{"7", "sleep 60"}}}, f.fails[name]
}

func (f *fake) Diff(_ context.Context, name string) ([]api.Change, error) {
	f.call("diff %s", name)
	return []api.Change{{Kind: api.Changed, Path: "/etc"}, {Kind: api.Added, Path: "/etc/x"}, {Kind: api.Deleted, Path: "/tmp"}}, f.fails[name]
}

func (f *fake) Kill(_ context.Context, name, signal string) error {
	f.call("kill %s %s", name, signal)
	return f.fails[name]
}

func (f *fake) Remove(_ context.Context, name string, force, volumes bool) error {
	f.call("rm %s %t %t", name, force, volumes)
	return f.fails[name]
}

func (f *fake) List(context.Context) ([]api.Container, error) {
	return slices.Clone(f.containers), f.err
}

func (f *fake) Inspect(_ context.Context, name string) (api.Container, error) {
	for _, c := range f.containers {
		if c.Name == name || c.ID == name {
			return c, nil
		}
	}
	return api.Container{}, api.Errorf(api.NotFound, "no container %s", name)
}

func (f *fake) Logs(_ context.Context, name string, o api.LogOptions, emit func(api.LogEntry) error) error {
	f.call("logs %s", name)
	f.logOptions = o
	for _, e := range f.log {
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Exec(_ context.Context, name string, e api.ExecSpec, s api.Streams) (api.Exit, error) {
	f.call("exec %s", name)
	f.exec = e
	f.attach = &api.Attach{Streams: s}
	return f.exit, f.err
}

func (f *fake) Wait(ctx context.Context, name string) (api.Exit, error) {
	f.call("wait %s", name)
	if err := f.fails["wait "+name]; err != nil {
		<-ctx.Done()
		return api.Exit{}, ctx.Err()
	}
	return f.exit, f.fails[name]
}

func (f *fake) Images(context.Context) ([]api.Image, error) { return slices.Clone(f.imgs), f.err }

func (f *fake) InspectImage(_ context.Context, name string) (api.Image, error) {
	for _, i := range f.imgs {
		if familiar(i.Name) == name || i.ID == name {
			return i, nil
		}
	}
	return api.Image{}, api.Errorf(api.NotFound, "no image %s", name)
}

func (f *fake) ImageDetail(ctx context.Context, name string) (api.ImageDetail, error) {
	img, err := f.InspectImage(ctx, name)
	d := f.detail
	d.Image = img
	for _, o := range f.imgs {
		if o.ID == img.ID && o.Name != "" {
			d.Names = append(d.Names, o.Name)
		}
	}
	return d, err
}

func (f *fake) Untag(_ context.Context, name string, names []string) error {
	f.call("untag %s %q", name, names)
	return f.fails[name]
}

func (f *fake) Export(_ context.Context, name, file string, s api.Streams) error {
	f.call("export %s %q", name, file)
	if file == "" {
		fmt.Fprint(s.Stdout, "archive")
	}
	return f.fails[name]
}

func (f *fake) CopyFiles(_ context.Context, from, to api.CopyPlace, followLink, archive bool, _ api.Streams) error {
	f.call("cp %s|%s %s|%s %t %t", from.Container, from.Path, to.Container, to.Path, followLink, archive)
	return f.err
}

func (f *fake) Events(_ context.Context, o api.EventOptions, emit func(api.Event) error) error {
	f.call("events %t %t", o.Since.IsZero(), o.Until.IsZero())
	for _, e := range f.happened {
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Commit(_ context.Context, name string, o api.CommitOptions, _ api.Streams) (api.Image, error) {
	f.call("commit %s %+v", name, o)
	return api.Image{ID: "sha256:" + testID}, f.fails[name]
}

func (f *fake) Transfer(_ context.Context, r api.TransferRequest, s api.Streams) (api.TransferReply, error) {
	f.request = r
	fmt.Fprint(s.Stderr, "progress\n")
	return f.reply, f.err
}

func (f *fake) RemoveImage(_ context.Context, name string, force bool) ([]string, error) {
	f.call("rmi %s %t", name, force)
	return []string{"Untagged: " + name, "Deleted: sha256:1"}, f.fails[name]
}

func (f *fake) Tag(_ context.Context, source, target string) error {
	f.call("tag %s %s", source, target)
	return f.err
}

func (f *fake) DiskUsage(context.Context) (api.DiskUsage, error) { return f.usage, f.err }

func (f *fake) PruneContainers(_ context.Context, o api.PruneOptions) (api.PruneReport, error) {
	f.call("prune containers %v %v %t", o.Labels, o.NotLabels, !o.Until.IsZero())
	return f.pruned, f.err
}

func (f *fake) PruneImages(_ context.Context, o api.PruneOptions) (api.PruneReport, error) {
	f.call("prune images %t %v", o.All, o.Labels)
	return f.pruned, nil
}

func (f *fake) PruneVolumes(context.Context, api.PruneOptions) (api.PruneReport, error) {
	f.call("prune volumes")
	return f.pruned, nil
}

func (f *fake) PruneNetworks(context.Context, api.PruneOptions) (api.PruneReport, error) {
	f.call("prune networks")
	return f.pruned, nil
}

func (f *fake) CreateNetwork(_ context.Context, n api.Network) (api.Network, error) {
	f.call("create network %s %s %v %t %t %t %v %v", n.Name, n.Driver, n.Subnets, n.IPv4Only, n.Internal, n.NoDNS, n.Labels, n.Options)
	n.ID = testID
	return n, f.fails[n.Name]
}

func (f *fake) InspectNetwork(_ context.Context, name string) (api.Network, error) {
	for _, n := range f.networks {
		if n.Name == name {
			return n, nil
		}
	}
	return api.Network{}, api.Errorf(api.NotFound, "network %s not found", name)
}

func (f *fake) Networks(context.Context) ([]api.Network, error) { return f.networks, f.err }

func (f *fake) RemoveNetwork(_ context.Context, name string) error {
	f.call("remove network %s", name)
	return f.fails[name]
}

func (f *fake) ConnectNetwork(_ context.Context, network, container string, e api.EndpointSpec) error {
	f.call("connect %s %s %v", network, container, e)
	return f.err
}

func (f *fake) DisconnectNetwork(_ context.Context, network, container string, force bool) error {
	f.call("disconnect %s %s %t", network, container, force)
	return f.err
}

func (f *fake) Check(_ context.Context, repair, insecure bool, _ api.Streams) (api.CheckReport, error) {
	f.call("check %t %t", repair, insecure)
	return f.checked, f.err
}

func (f *fake) TryEscapes(_ context.Context, spec api.ContainerSpec, _ api.Streams) ([]api.Probe, error) {
	f.call("escapes %s %s", spec.Isolation, spec.UserNS.Mode)
	level := string(spec.Isolation) + string(spec.UserNS.Mode)
	return []api.Probe{{Level: level, Name: "mount", What: "mount", Expected: api.ProbeHolds, Found: f.found, How: "so"}, {Level: level, Name: "kill", Expected: api.ProbeOpen, Found: api.ProbeOpen}}, f.err
}

func (f *fake) StoreLimit(context.Context) (int64, error) { return f.limit, f.err }

func (f *fake) SetStoreLimit(_ context.Context, n int64) error {
	f.limit = n
	return f.err
}

func (f *fake) Info(context.Context) (api.Info, error) { return f.info, f.err }

func (f *fake) Reap(_ context.Context, id string) error {
	f.call("reap %s", id)
	return f.err
}

func (f *fake) ServeRegistry(_ context.Context, r api.RegistryRequest) error {
	f.call("registry %+v", r)
	return f.err
}

func (f *fake) Metrics(_ context.Context, r api.MetricsRequest) error {
	f.call("metrics %+v", r)
	return f.err
}

// result is what a command line did.
type result struct {
	code        int
	out, errOut string
}

// brig runs a command line on f.
func brig(t *testing.T, f *fake, args ...string) result {
	t.Helper()
	return brigWith(t, f, api.Streams{Stdin: strings.NewReader("")}, args...)
}

// brigWith runs a command line with other standard input.
func brigWith(t *testing.T, f *fake, s api.Streams, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	s.Stdout, s.Stderr = &out, &errOut
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := &app{streams: s, newEngine: func(Options) Engine { return f }, signals: newCatcher(cancel), seLinux: hasSELinux}
	defer a.signals.stop()
	code := a.main(ctx, args)
	return result{code, out.String(), errOut.String()}
}

// wants fails unless the command ended with code and printed exactly out.
func (r result) wants(t *testing.T, code int, out string) {
	t.Helper()
	if r.code != code || r.out != out {
		t.Errorf("got code %d, output\n%s\nand errors\n%s\nwant code %d and output\n%s", r.code, r.out, r.errOut, code, out)
	}
}

// complains fails unless the command ended with code and its errors begin with text.
func (r result) complains(t *testing.T, code int, text string) {
	t.Helper()
	if r.code != code || !strings.HasPrefix(r.errOut, text) {
		t.Errorf("got code %d and errors\n%s\nwant code %d and errors that begin with\n%s", r.code, r.errOut, code, text)
	}
}

func (f *fake) VMKernels(context.Context) ([]api.VMKernel, error) { return f.kernels, nil }

func (f *fake) InstallVMKernel(_ context.Context, from api.VMKernelSource, _ func(string)) (api.VMKernel, error) {
	f.calls = append(f.calls, "install kernel "+strings.Join([]string{from.File, from.Config, from.Modules, from.Package}, " "))
	return api.VMKernel{Version: "6.1-brig"}, nil
}

func (f *fake) RemoveVMKernel(context.Context) error { return nil }
