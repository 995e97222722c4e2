package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/base/rootless"
	"brig/internal/runtime/probe"
)

// escape is what `brig selftest escape` tries: by name, in the order of the report. open are the levels at which it is known to be a way out: doc/isolation.md says why.
// Those of chroot are so for want of namespaces; those of container are docker's choices, which a user namespace takes back.
type escape struct {
	name, what string
	open       []string
	kernel     bool // it is about the kernel, which levels gvisor and vm have of their own
}

// expected is what should come of an attempt at a level.
func (x *escape) expected(level string) string {
	switch {
	case slices.Contains(x.open, level):
		return api.ProbeOpen
	case x.kernel && rootIn(api.Isolation(level)) != "":
		return api.ProbeOwn
	}
	return api.ProbeHolds
}

// hardened is level container with a user namespace.
const hardened = string(api.IsolationContainer) + ",userns"

// escapes are all attempts.
func escapes() []escape {
	const chroot, container = string(api.IsolationChroot), string(api.IsolationContainer)
	everywhere := []string{chroot, container, hardened, string(api.IsolationGVisor), string(api.IsolationVM)}
	return []escape{
		{"descriptors", "find a descriptor that the runtime left open", nil, false},
		{"host-files-proc", "read a file of the host's by /proc/PID/root and cwd", nil, false},
		{"host-files-chroot", "leave the root by a second chroot(2)", nil, false},
		{"host-files-handle", "open a file of the host's disk by its number", nil, true},
		{"copy-out", "have cp read a file of the host's by a link", nil, false},
		{"copy-in", "have cp write to a folder of the host's by a link", nil, false},
		{"mount", "mount a file system", nil, true},
		{"user-namespace", "make a user namespace, in which everything may be tried", nil, true},
		{"join-namespace", "join a namespace of a process of the host's", nil, false},
		{"sysctl", "write to /proc/sys: core_pattern, swappiness", nil, true},
		{"sysrq", "open /proc/sysrq-trigger for writing", nil, true},
		{"sysfs", "open files of /sys for writing: uevent_helper, power/state", nil, true},
		{"kernel-memory", "read /dev/mem by a node of its own, /proc/kcore", nil, true},
		{"disk", "read the host's disks by nodes of its own", nil, true},
		{"cgroup", "change its own limits", nil, true},
		{"release-agent", "name a program for the host to run (release_agent)", nil, true},
		{"module", "load a kernel module", nil, true},
		{"bpf", "load something for bpf(2)", nil, true},
		{"keyring", "read a key of the host's user", nil, true},
		{"kernel-log", "read the kernel's log", nil, true},
		{"clock", "set the host's clock", nil, true},
		{"reboot", "reboot the host", nil, true},
		{"ptrace", "trace a process of the host's", nil, false},
		{"kill", "send a signal to a process of the host's", []string{chroot}, false},
		{"host-loopback", "connect to what listens on the host's 127.0.0.1", []string{chroot}, false},
		{"abstract-socket", "connect to an abstract socket of the host's", []string{chroot}, false},
		{"raw-network", "see the packets of the host's network", []string{chroot}, false},
		{"setuid-on-bind", "leave a setuid program of root's in a folder of the host's that is bound", everywhere, false},
		{"node-on-bind", "leave a device node in a folder of the host's that is bound", []string{chroot, container, string(api.IsolationVM)}, false},
	}
}

// bait is what there is on the host to be got at while probes run.
type bait struct {
	probe.Target
	dir    string // of files
	bound  string // in it, for the container
	victim *exec.Cmd
	hit    chan bool // whether the victim was sent the signal
	closes []func()
}

func (b *bait) close() {
	for _, f := range slices.Backward(b.closes) {
		f()
	}
}

// layBait makes it.
func (e *Engine) layBait(ctx context.Context) (b *bait, err error) {
	b = &bait{Target: probe.Target{Token: id.New()}, hit: make(chan bool, 1)}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	top := filepath.Join(e.root, "selftest") // on the disk that containers' files are on
	if err = os.MkdirAll(top, 0o700); err != nil {
		return b, err
	}
	l, err := lock.Take(filepath.Join(top, "lock"))
	if err != nil {
		return b, err
	}
	b.closes = append(b.closes, func() { l.Release() }) //nolint:errcheck // it is a file's end
	b.dir = filepath.Join(top, "files")
	b.Secret, b.bound = filepath.Join(b.dir, "secret"), filepath.Join(b.dir, "bound")
	if err = e.removeBound(ctx, b.bound); err != nil { // of one that was killed, and so are the files
		return b, err
	}
	if err = os.RemoveAll(b.dir); err != nil {
		return b, err
	}
	if err = os.Mkdir(b.dir, 0o700); err != nil {
		return b, err
	}
	b.closes = append(b.closes, func() { os.RemoveAll(b.dir) })
	if err = os.WriteFile(b.Secret, []byte(b.Token), 0o600); err != nil {
		return b, err
	}
	if err = os.Mkdir(b.bound, 0o700); err != nil {
		return b, err
	}
	b.Abstract, b.Key = "brig-selftest-"+b.Token[:16], "brig-selftest-"+b.Token[:16]
	for _, at := range [][2]string{{"tcp4", "127.0.0.1:0"}, {"unix", "@" + b.Abstract}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			return b, err
		}
		b.closes = append(b.closes, func() { l.Close() })
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			b.Port = strconv.Itoa(tcp.Port)
		}
		go b.tell(l)
	}
	if key, err := unix.AddKey("user", b.Key, []byte(b.Token), unix.KEY_SPEC_USER_KEYRING); err == nil { // else there are none here, and nothing to be read
		const all = 0x3f3f0000                                                                       // to the possessor and the user
		_, _ = unix.KeyctlInt(unix.KEYCTL_SETPERM, key, all, 0, 0)                                   // it is ours
		b.closes = append(b.closes, func() { unix.KeyctlInt(unix.KEYCTL_INVALIDATE, key, 0, 0, 0) }) //nolint:errcheck // it ends with the user's keyring
	}
	return b, b.expose(e.driver.Program)
}

// removeBound removes the containers that a folder is bound into.
func (e *Engine) removeBound(ctx context.Context, dir string) error {
	all, err := e.List(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if slices.ContainsFunc(c.Spec.Mounts, func(m api.MountSpec) bool { return m.Type == "bind" && m.Source == dir }) {
			if err := e.Remove(ctx, c.ID, true, true); err != nil && !errors.Is(err, api.NotFound) {
				return err
			}
		}
	}
	return nil
}

// tell answers with the token.
func (b *bait) tell(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, b.Token) // who is not told does not get in
		c.Close()
	}
}

// expose starts a process of the host's to be attacked.
func (b *bait) expose(program string) error {
	b.victim = exec.Command(program, "probe", "victim", b.Token)
	b.victim.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	out, err := b.victim.StdoutPipe()
	if err == nil {
		err = b.victim.Start()
	}
	if err != nil {
		return err
	}
	if _, err := out.Read(make([]byte, 16)); err != nil { // it says that it hears signals
		return err
	}
	go func() {
		_ = b.victim.Wait() // it is in the state
		b.hit <- b.victim.ProcessState.ExitCode() == probe.Hit
	}()
	b.closes = append(b.closes, func() { b.victim.Process.Kill() }) //nolint:errcheck // it has ended, then
	return nil
}

// TryEscapes runs a container as spec says, with brig/base and the probes in place of image and command, and reports what they got at. The container is removed.
func (e *Engine) TryEscapes(ctx context.Context, spec api.ContainerSpec, out api.Streams) (report []api.Probe, err error) {
	b, err := e.layBait(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	level := string(spec.Isolation)
	switch {
	case level == "":
		level = string(api.IsolationContainer)
	case spec.Isolation == api.IsolationContainer && spec.UserNS.Mode != "":
		level = hardened
	}
	spec.Image, spec.AutoRemove, spec.Log = api.ToolsImage, true, api.LogConfig{Driver: api.LogNone}
	const program = "/.brig-probe"
	spec.Mounts = append(spec.Mounts[:len(spec.Mounts):len(spec.Mounts)],
		api.MountSpec{Type: "bind", Source: e.driver.Program, Target: program, ReadOnly: true},
		api.MountSpec{Type: "bind", Source: b.bound, Target: probe.Bound, IDMap: boundMap(&spec)})
	spec.Entrypoint, spec.Command = &[]string{program, "probe"}, b.Args()
	found, err := e.probed(ctx, spec, b, out)
	if err != nil {
		return nil, err
	}
	for _, x := range escapes() {
		p := api.Probe{Level: level, Name: x.name, What: x.what, Expected: x.expected(level)}
		var ok bool
		if p.Found, p.How, ok = cut(found[x.name]); !ok {
			return nil, api.Errorf(api.Unavailable, "selftest: the container told nothing of probe %s", x.name)
		}
		report = append(report, p)
	}
	return report, nil
}

func cut(line string) (found, how string, ok bool) {
	found, how, ok = strings.Cut(line, "\t")
	return found, how, ok
}

// boundMap is how a container with a user namespace sees the folder that is bound: with the host's numbers, so that it can write there.
func boundMap(s *api.ContainerSpec) api.IDMap {
	if s.UserNS.Mode != "" && !rootless.Active() {
		return api.IDMapUserNS
	}
	return api.IDMapNone
}

// probeLimit is how long the probes may take.
const probeLimit = time.Minute

// probed runs the container and returns what is known of each probe: found, a tab, how.
func (e *Engine) probed(ctx context.Context, spec api.ContainerSpec, b *bait, out api.Streams) (map[string]string, error) {
	said := &words{ready: make(chan struct{})}
	var trouble bytes.Buffer
	a := &api.Attach{Stdout: true, Stderr: true, Streams: api.Streams{Stdout: said, Stderr: &trouble}}
	c, session, err := e.Run(ctx, spec, a, api.Streams{Stderr: out.Stderr})
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = session.Wait(context.WithoutCancel(ctx)) // what it said tells
		close(ended)
	}()
	select {
	case <-said.ready:
		e.tryCopies(ctx, c.ID, b, said)
	case <-ended:
		return nil, api.Errorf(api.Unavailable, "selftest: the probes ended before they were done: %s", strings.TrimSpace(trouble.String()))
	case <-time.After(probeLimit):
		err = api.Errorf(api.Unavailable, "selftest: the probes are not done after %s", probeLimit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.look(said)
	if kerr := e.Remove(context.WithoutCancel(ctx), c.ID, true, true); kerr != nil && !errors.Is(kerr, api.NotFound) && err == nil {
		err = kerr
	}
	<-ended
	return said.lines, err
}

// tryCopies tries what a link in the container leads to.
func (e *Engine) tryCopies(ctx context.Context, container string, b *bait, said *words) {
	read := filepath.Join(b.dir, "read")
	err := e.CopyFiles(ctx, api.CopyPlace{Container: container, Path: probe.Link + b.Secret}, api.CopyPlace{Path: read}, true, false, api.Streams{Stderr: io.Discard})
	data, _ := os.ReadFile(read)
	said.seen("copy-out", strings.Contains(string(data), b.Token), err)
	written := filepath.Join(b.dir, "written")
	err = e.CopyFiles(ctx, api.CopyPlace{Path: b.Secret}, api.CopyPlace{Container: container, Path: probe.Link + written}, true, false, api.Streams{Stderr: io.Discard})
	said.seen("copy-in", exists(written), err)
}

// seen enters what came of a copy.
func (w *words) seen(name string, open bool, err error) {
	switch {
	case open:
		w.put(name, true, "the host's file was reached")
	case err != nil:
		w.put(name, false, err.Error())
	default:
		w.put(name, false, "it was the container's file")
	}
}

// look is what is seen on the host of what the container has done.
func (b *bait) look(said *words) {
	hit := false
	select {
	case hit = <-b.hit:
	case <-time.After(50 * time.Millisecond):
	}
	switch {
	case hit:
		said.put("kill", true, "the process ended")
	case strings.HasPrefix(said.of("kill"), api.ProbeOpen):
		said.put("kill", false, "it said that it sent one, and none came")
	} // else what the container says of its attempt is true
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(b.bound, probe.Setuid), &st)
	if err == nil {
		said.put("setuid-on-bind", st.Mode&unix.S_ISUID != 0 && st.Uid == 0, fmt.Sprintf("mode %o of user %d", st.Mode&0o7777, st.Uid))
	}
	if err = unix.Lstat(filepath.Join(b.bound, probe.Node), &st); err == nil {
		said.put("node-on-bind", st.Mode&unix.S_IFMT == unix.S_IFCHR, "mknod")
	}
}

// words are the lines that the probes write.
type words struct {
	mu    sync.Mutex
	rest  []byte
	lines map[string]string
	ready chan struct{}
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.rest = rest
		if string(line) == "ready" {
			close(w.ready)
			continue
		}
		if name, found, ok := strings.Cut(string(line), "\t"); ok {
			w.set(name, found)
		}
	}
}

func (w *words) set(name, found string) {
	if w.lines == nil {
		w.lines = map[string]string{}
	}
	w.lines[name] = found
}

// put enters what was seen from outside.
func (w *words) put(name string, open bool, how string) {
	found := api.ProbeHolds
	if open {
		found = api.ProbeOpen
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set(name, found+"\t"+how)
}

func (w *words) of(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines[name]
}
