package oci

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/caps"
)

// live is a container that runs the helper.
type live struct {
	t    *testing.T
	req  *Request
	root string
	out  *os.File // read end of its standard output
}

var lives atomic.Int32 // for names

// newLive prepares a container; without root the test is skipped.
func newLive(t *testing.T, args ...string) *live {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := helperRoot(t)
	all := caps.Available().Names()
	spec := &specs.Spec{
		Process: &specs.Process{
			Args: append([]string{"/helper"}, args...), Cwd: "/", Env: []string{"PATH=/", helperEnv + "=1", "GOMAXPROCS=1"},
			Capabilities: &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all},
		},
		Root: &specs.Root{Path: root},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc"},
			{Destination: "/helper", Type: "bind", Source: exe, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}},
		},
	}
	id := fmt.Sprintf("attr-%d-%d", os.Getpid(), lives.Add(1))
	return &live{t: t, root: root, req: &Request{ID: id, Spec: spec, Bundle: filepath.Dir(root), RootPath: root, MountPoint: root, NetNS: -1, Gate: -1}}
}

// stdio gives the container /dev/null and a pipe.
func stdio(t *testing.T) (fds [3]int, out *os.File, done func()) {
	t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return [3]int{int(null.Fd()), int(w.Fd()), int(w.Fd())}, r, func() { null.Close(); w.Close() }
}

// start creates the container and starts it; it is gone when the test ends.
func (l *live) start() *Container {
	l.t.Helper()
	fds, out, done := stdio(l.t)
	defer done()
	l.req.Stdio, l.out = fds, out
	c, err := Create(l.req)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Cgroup.Remove() })
	if err := c.Start(); err != nil {
		c.Abandon()
		l.t.Fatal(err)
	}
	return c
}

// refused wants the creation or the start to fail with a kind and words, and nothing of it left.
func (l *live) refused(kind api.Kind, words string) {
	l.t.Helper()
	fds, _, done := stdio(l.t)
	defer done()
	l.req.Stdio = fds
	c, err := Create(l.req)
	if err == nil {
		if err = c.Start(); err == nil {
			c.Abandon()
		} else {
			c.Reap()
		}
		c.Cgroup.Remove()
	}
	if err == nil || api.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
		l.t.Errorf("got %v (%s), want %s with %q", err, api.KindOf(err), kind, words)
	}
}

// output runs the container to its end.
func (l *live) output() string {
	l.t.Helper()
	c := l.start()
	defer c.Close()
	text, err := io.ReadAll(l.out)
	if err != nil {
		l.t.Fatal(err)
	}
	if exit, err := c.Reap(); err != nil || exit.Code != 0 {
		l.t.Fatalf("exit %d, %v: %s", exit.Code, err, text)
	}
	return string(text)
}

func (l *live) tell() *told {
	l.t.Helper()
	return parseTold(l.t, l.output())
}

func parseTold(t *testing.T, text string) *told {
	t.Helper()
	r := new(told)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return r
}

func TestNoAttributes(t *testing.T) {
	mine, err := tell()
	unix.Umask(mine.Umask)
	if err != nil {
		t.Fatal(err)
	}
	got := newLive(t, "tell").tell()
	if got.Sched != mine.Sched || got.IO != mine.IO || got.Policy != 0 || got.Persona != mine.Persona || got.OOM != mine.OOM || got.TimeNS != mine.TimeNS {
		t.Errorf("without attributes they are not the caller's: %+v, mine %+v", got, mine)
	}
	if got.Umask != 0o022 || got.NoNewPriv != 0 || got.PID != 1 {
		t.Errorf("umask %o, no_new_privs %d, PID %d", got.Umask, got.NoNewPriv, got.PID)
	}
}

func TestScheduler(t *testing.T) {
	for _, tc := range []struct {
		name string
		ask  specs.Scheduler
		want unix.SchedAttr
	}{
		{"nice", specs.Scheduler{Policy: specs.SchedOther, Nice: 7}, unix.SchedAttr{Nice: 7}},
		{"batch", specs.Scheduler{Policy: specs.SchedBatch, Nice: -3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}, unix.SchedAttr{Policy: 3, Nice: -3, Flags: unix.SCHED_FLAG_RESET_ON_FORK}},
		{"idle", specs.Scheduler{Policy: specs.SchedIdle}, unix.SchedAttr{Policy: 5}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLive(t, "tell")
			l.req.Spec.Process.Scheduler = &tc.ask
			got := l.tell().Sched
			got.Size, got.Runtime = 0, 0 // newer kernels tell a slice for fair policies
			if got != tc.want {
				t.Errorf("%+v, want %+v", got, tc.want)
			}
		})
	}
	t.Run("fifo", func(t *testing.T) {
		l := newLive(t, "tell")
		l.req.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 9}
		if !realtimeAllowed(t) {
			l.refused(api.Unsupported, "realtimeRuntime")
			return
		}
		if got := l.tell().Sched; got.Policy != 1 || got.Priority != 9 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		l := newLive(t, "tell")
		l.req.Spec.Process.Scheduler = &specs.Scheduler{
			Policy: specs.SchedDeadline, Runtime: 1_000_000, Deadline: 10_000_000, Period: 20_000_000, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
		}
		got := l.tell().Sched
		if got.Policy != unix.SCHED_DEADLINE || got.Runtime != 1_000_000 || got.Deadline != 10_000_000 || got.Period != 20_000_000 || got.Flags&1 == 0 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("utilClamp", func(t *testing.T) {
		l := newLive(t, "tell")
		l.req.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagUtilClampMin}}
		if _, err := os.Stat("/proc/sys/kernel/sched_util_clamp_min"); err == nil {
			l.tell()
			return
		}
		l.refused(api.Unsupported, "process.scheduler")
	})
}

// realtimeAllowed tells whether a new cpu cgroup may run real-time processes: with CONFIG_RT_GROUP_SCHED and cgroup version 1 it has no share.
func realtimeAllowed(t *testing.T) bool {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"} {
		if _, err := os.Stat(filepath.Join(dir, "cpu.rt_runtime_us")); err == nil {
			return false
		}
	}
	return true
}

func TestIOPriority(t *testing.T) {
	for class, n := range map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3} {
		l := newLive(t, "tell")
		l.req.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: class, Priority: 5}
		if got := l.tell().IO; got != n<<13|5 {
			t.Errorf("%s: %#x", class, got)
		}
	}
}

func TestMemoryPolicy(t *testing.T) {
	l := newLive(t, "tell")
	l.req.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	if got := l.tell(); got.Policy != unix.MPOL_BIND|unix.MPOL_F_STATIC_NODES || got.Nodes != 1 {
		t.Errorf("bind: policy %#x, nodes %#x", got.Policy, got.Nodes)
	}
	l = newLive(t, "tell")
	l.req.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}
	if got := l.tell(); got.Policy != unix.MPOL_LOCAL {
		t.Errorf("local: policy %#x", got.Policy)
	}
	l = newLive(t, "tell")
	l.req.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1023"}
	l.refused(api.InvalidArgument, "linux.memoryPolicy")
}

func TestPersonality(t *testing.T) {
	l := newLive(t, "tell")
	l.req.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	want := map[string]string{"amd64": "i686", "arm64": "armv8l"}[runtime.GOARCH]
	if got := l.tell(); got.Persona != 8 || got.Machine != want {
		t.Errorf("personality %#x, machine %s, want %s", got.Persona, got.Machine, want)
	}
}

func TestProcessLimits(t *testing.T) {
	l := newLive(t, "tell")
	p := l.req.Spec.Process
	adj, mask := 123, uint32(0o077)
	p.OOMScoreAdj, p.User.Umask, p.NoNewPrivileges = &adj, &mask, true
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 100}}
	got := l.tell()
	if got.OOM != "123" || got.Umask != 0o077 || got.NoNewPriv != 1 || got.Rlimit.Max != 100 {
		t.Errorf("%+v", got)
	}
}

// TestOOMScoreBelow: lowering the adjustment without CAP_SYS_RESOURCE is refused by the field's name, as runc refuses it.
func TestOOMScoreBelow(t *testing.T) {
	l := newLive(t, "tell")
	adj := -999
	l.req.Spec.Process.OOMScoreAdj = &adj
	if caps.Available().Has(unix.CAP_SYS_RESOURCE) {
		if got := l.tell().OOM; got != "-999" {
			t.Errorf("oom_score_adj %s", got)
		}
		return
	}
	l.refused(api.Unsupported, "process.oomScoreAdj")
}

func TestCapabilitiesOfAProcess(t *testing.T) {
	l := newLive(t, "tell")
	c := l.req.Spec.Process.Capabilities
	few := []string{"CAP_KILL", "CAP_CHOWN", "CAP_FROM_THE_FUTURE"}
	c.Bounding, c.Permitted, c.Effective, c.Inheritable, c.Ambient = few, few, few, []string{"CAP_KILL"}, []string{"CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"}
	l.req.Spec.Process.User.UID = 1000
	got := l.tell()
	const kill, both = "0000000000000020", "0000000000000021"
	if got.CapAmb != kill || got.CapPrm != kill || got.CapBnd != both { // after execve of another user only ambient ones are left
		t.Errorf("ambient %s, permitted %s, bounding %s", got.CapAmb, got.CapPrm, got.CapBnd)
	}
}

func TestSessionKeyring(t *testing.T) {
	l := newLive(t, "tell")
	mine, err := tell()
	unix.Umask(mine.Umask)
	if err != nil {
		t.Fatal(err)
	}
	got := l.tell().Keyring
	if want := "keyring;0;0;3f1b0000;_ses." + l.req.ID; got != want {
		t.Errorf("session keyring %s, want %s", got, want)
	}
	l = newLive(t, "tell")
	l.req.NoNewKeyring = true
	if got := l.tell().Keyring; got != mine.Keyring {
		t.Errorf("--no-new-keyring: %s, mine is %s", got, mine.Keyring)
	}
}

func TestTimeNamespace(t *testing.T) {
	if _, err := os.Stat("/proc/self/timens_offsets"); err != nil {
		t.Skip("this kernel has no time namespaces: ", err)
	}
	l := newLive(t, "sleep")
	addNS(l.req.Spec, specs.TimeNamespace)
	l.req.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 86400}, "boottime": {Secs: 7 * 86400, Nanosecs: 5}}
	c := l.start()
	defer c.Abandon()
	host, hostBoot := clock(unix.CLOCK_MONOTONIC), clock(unix.CLOCK_BOOTTIME)
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", c.Pid))
	if err != nil {
		t.Fatal(err)
	}

	joined := newLive(t, "tell")
	joined.req.Spec.Linux.Namespaces = append(joined.req.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: fmt.Sprintf("/proc/%d/ns/time", c.Pid)})
	execed := l.exec(c, &ExecRequest{}, "tell")
	for name, got := range map[string]*told{"exec": execed, "joined by path": joined.tell()} {
		if got.TimeNS != ns {
			t.Errorf("%s: %s, not the container's %s", name, got.TimeNS, ns)
		}
		if d := got.Monotonic - host; d < 86400 || d > 86400+60 {
			t.Errorf("%s: monotonic clock %d s off", name, d)
		}
		if d := got.Boottime - hostBoot; d < 7*86400 || d > 7*86400+60 {
			t.Errorf("%s: boot clock %d s off", name, d)
		}
	}
	if mine, _ := os.Readlink("/proc/self/ns/time"); mine == ns {
		t.Error("the runtime is in the container's time namespace")
	}

	early := newLive(t, "tell")
	addNS(early.req.Spec, specs.TimeNamespace)
	early.req.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: -1 << 33}} // before the boot of the universe
	early.refused(api.InvalidArgument, "linux.timeOffsets: boottime")
}

// exec runs the helper once more in a container.
func (l *live) exec(c *Container, req *ExecRequest, args ...string) *told {
	l.t.Helper()
	fds, out, done := stdio(l.t)
	p := *l.req.Spec.Process
	p.Args = append([]string{"/helper"}, args...)
	req.Pid, req.Process, req.Cgroup, req.Stdio = c.Pid, &p, c.Cgroup, fds
	p.Scheduler, req.ID = nil, l.req.ID
	proc, err := Exec(req)
	done()
	if err != nil {
		l.t.Fatal(err)
	}
	defer proc.Close()
	if err := proc.Start(); err != nil {
		proc.Reap()
		l.t.Fatal(err)
	}
	text, _ := io.ReadAll(out)
	proc.Reap()
	return parseTold(l.t, string(text))
}

// TestExecAttributes: a further process has the attributes of the container's first one, its keyring, and the processors of execCPUAffinity.
func TestExecAttributes(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("CPU affinity shows with two processors")
	}
	l := newLive(t, "sleep")
	p, adj := l.req.Spec.Process, 55
	p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 4}
	p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	p.OOMScoreAdj = &adj
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	l.req.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	l.req.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Nodes: "0"}
	c := l.start()
	defer c.Abandon()
	first, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid))
	if err != nil || !strings.Contains(string(first), "Cpus_allowed_list:\t0-") {
		t.Errorf("execCPUAffinity is not for the first process: %v %s", err, first)
	}
	container, whole := *l.req.Spec, *p
	container.Process = &whole
	p.IOPriority, p.OOMScoreAdj = nil, nil // of the exec's own process
	got := l.exec(c, &ExecRequest{Container: &container}, "tell")
	if got.Sched.Policy != 3 || got.Sched.Nice != 4 || got.IO != 2<<13|6 || got.OOM != "55" || got.Persona != 8 || got.Policy != unix.MPOL_PREFERRED {
		t.Errorf("%+v", got)
	}
	if got.CPUs != "1" {
		t.Errorf("final affinity: %s", got.CPUs)
	}
	if want := "3f1b0000;_ses." + l.req.ID; !strings.HasSuffix(got.Keyring, want) {
		t.Errorf("session keyring %s, want …%s", got.Keyring, want)
	}
	p.ExecCPUAffinity = nil
	if got := l.exec(c, &ExecRequest{}, "tell"); got.Persona == 8 || got.OOM == "55" {
		t.Errorf("without the container's configuration: %+v", got)
	}
}

// TestAttributesInAUserNamespace: the same where the container is built from inside of its user namespace.
func TestAttributesInAUserNamespace(t *testing.T) {
	a := newAgent(t)
	l := newLive(t, "tell")
	s, adj := l.req.Spec, 77
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	addNS(s, specs.UserNamespace)
	addNS(s, specs.TimeNamespace)
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 86400}}
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	s.Linux.Seccomp = notifyFilter(a, "getsid")
	s.Process.OOMScoreAdj = &adj
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
	s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	for dir := l.root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) { // its root user must be able to reach the root
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{".", "proc", "tmp", "dev"} { // and own it
		if err := os.Chown(filepath.Join(l.root, dir), 100000, 100000); err != nil {
			t.Fatal(err)
		}
	}
	host := clock(unix.CLOCK_BOOTTIME)
	got := l.tell()
	if got.OOM != "77" || got.Sched.Policy != 3 || got.Sched.Nice != 3 || got.IO != 2<<13|6 || got.Persona != 8 || got.Policy != unix.MPOL_BIND {
		t.Errorf("%+v", got)
	}
	if d := got.Boottime - host; d < 86400 || d > 86400+60 {
		t.Errorf("boot clock %d s off", d)
	}
	if want := "keyring;0;0;3f130008;_ses." + l.req.ID; got.Keyring != want {
		t.Errorf("session keyring %s, want %s", got.Keyring, want)
	}
	if st := (<-a.states).State; st.ID != l.req.ID || st.Pid == 0 {
		t.Errorf("%+v", st)
	}
}
