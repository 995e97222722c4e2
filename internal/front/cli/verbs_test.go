package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/api"
)

// TestCalls holds what the simple verbs ask of the engine, and print, against docker's way.
func TestCalls(t *testing.T) {
	for line, want := range map[string]struct {
		calls []string
		out   string
	}{
		"start a b":                   {[]string{"start a", "start b"}, "a\nb\n"},
		"stop a b":                    {[]string{"stop a", "stop b"}, "a\nb\n"},
		"stop -t 2 a":                 {[]string{"stop a 2"}, "a\n"},
		"stop --time 0 a":             {[]string{"stop a 0"}, "a\n"},
		"stop --timeout=-1 a":         {[]string{"stop a -1"}, "a\n"},
		"stop -s INT -t 0 a":          {[]string{"stop a INT 0"}, "a\n"},
		"restart a b":                 {[]string{"restart a", "restart b"}, "a\nb\n"},
		"restart -s INT -t 3 a":       {[]string{"restart a INT 3"}, "a\n"},
		"pause a b":                   {[]string{"pause a", "pause b"}, "a\nb\n"},
		"unpause a":                   {[]string{"unpause a"}, "a\n"},
		"rename a b":                  {[]string{"rename a b"}, ""},
		"cp a b:/c":                   {[]string{"cp |a b|/c false false"}, ""},
		"cp -aL b:c -":                {[]string{"cp b|c |- true true"}, ""},
		"cp ./a:b c:":                 {[]string{"cp |./a:b c| false false"}, ""},
		"cp -q /a:b c:d":              {[]string{"cp |/a:b c|d false false"}, ""},
		"top a -o pid":                {[]string{`top a ["-o" "pid"]`}, "PID                 CMD\n7                   sleep 60\n"},
		"diff a":                      {[]string{"diff a"}, "C /etc\nA /etc/x\nD /tmp\n"},
		"rm -f -t 3 a":                {[]string{"stop a 3", "rm a true false"}, "a\n"},
		"kill a b":                    {[]string{"kill a KILL", "kill b KILL"}, "a\nb\n"},
		"kill -s HUP a":               {[]string{"kill a HUP"}, "a\n"},
		"rm a":                        {[]string{"rm a false false"}, "a\n"},
		"rm -fv a b":                  {[]string{"rm a true true", "rm b true true"}, "a\nb\n"},
		"wait a b":                    {[]string{"wait a", "wait b"}, "7\n7\n"},
		"rmi -f i":                    {[]string{"rmi i true"}, "Untagged: i\nDeleted: sha256:1\n"},
		"tag i j":                     {[]string{"tag i j"}, ""},
		"reap " + testID:              {[]string{"reap " + testID}, ""},
		"create img":                  {[]string{"create"}, testID + "\n"},
		"run -d img":                  {[]string{"run"}, testID + "\n"},
		"run -d --rm img":             {[]string{"run"}, testID + "\n"},
		"--root /r --state=/s stop a": {[]string{"stop a"}, "a\n"},
	} {
		f := &fake{exit: api.Exit{Code: 7}}
		brig(t, f, strings.Fields(line)...).wants(t, 0, want.out)
		if !slices.Equal(f.calls, want.calls) {
			t.Errorf("%s: the engine was asked %q, want %q", line, f.calls, want.calls)
		}
	}
}

// TestGoesOn shows that a failure with one name does not keep the others from their turn.
func TestGoesOn(t *testing.T) {
	for _, verb := range []string{"start", "stop", "restart", "kill", "rm", "wait", "rmi", "pause", "unpause"} {
		f := &fake{fails: map[string]error{"b": errors.New("b is broken")}}
		r := brig(t, f, verb, "a", "b", "c")
		r.complains(t, 1, "brig: b is broken\n")
		if len(f.calls) != 3 {
			t.Errorf("%s: the engine was asked %q", verb, f.calls)
		}
		if verb != "wait" && verb != "rmi" && r.out != "a\nc\n" {
			t.Errorf("%s printed %q", verb, r.out)
		}
	}
}

func TestForcedRemovalOfNothing(t *testing.T) {
	f := &fake{fails: map[string]error{"b": api.Errorf(api.NotFound, "no container b")}}
	brig(t, f, "rm", "-f", "b").complains(t, 0, "brig: no container b\n")
	brig(t, f, "rm", "b").complains(t, 1, "brig: no container b\n")
}

// TestPicked holds which containers flags choose.
func TestPicked(t *testing.T) {
	at := time.Now()
	state := func(id string, s api.Status, age int) api.Container {
		return api.Container{ID: id, Name: "n" + id, Created: at.Add(-time.Duration(age) * time.Minute), State: api.State{Status: s},
			Spec: api.ContainerSpec{Labels: map[string]string{"age": fmt.Sprint(age)}}}
	}
	all := []api.Container{state("up", api.StatusRunning, 1), state("still", api.StatusPaused, 2), state("done", api.StatusExited, 3), state("new", api.StatusCreated, 4)}
	for line, want := range map[string]string{
		"stop --all":                            "stop up,stop still",
		"stop -f name=still":                    "stop still",
		"kill -a -s HUP":                        "kill up HUP,kill still HUP",
		"rm --all":                              "rm up false false,rm still false false,rm done false false,rm new false false",
		"rm --filter status=exited":             "rm done false false",
		"rm --latest":                           "rm up false false",
		"start --all":                           "start done,start new",
		"start -l":                              "start up",
		"restart --running":                     "restart up,restart still",
		"restart --all --filter before=still":   "restart done,restart new",
		"pause -a":                              "pause up",
		"unpause --all":                         "unpause still",
		"pause --filter label=age=1":            "pause up",
		"rm --filter label!=age=1":              "rm still false false,rm done false false,rm new false false",
		"rm --filter since=done":                "rm up false false,rm still false false",
		"wait -l":                               "wait up",
		"diff -l":                               "diff up",
		"top -l pid":                            `top up ["pid"]`,
		"rm --filter status=exited -f name=new": "", // without a name --force is not short for --filter
	} {
		f := &fake{containers: all}
		brig(t, f, strings.Fields(line)...)
		if got := strings.Join(f.calls, ","); got != want {
			t.Errorf("%s: the engine was asked %s, want %s", line, got, want)
		}
	}
	brig(t, &fake{containers: all}, "stop", "--all", "x").complains(t, 1, "brig: 'brig stop' takes either names or one of --all")
	brig(t, &fake{containers: all}, "stop", "-f", "pod=x").complains(t, 125, "brig: invalid argument")
	brig(t, &fake{containers: all}, "stop", "-f", "status=odd").complains(t, 1, "brig: invalid filter 'status=odd'")
	brig(t, &fake{}, "stop", "-l").complains(t, 1, "brig: no containers found")
}

func TestPorts(t *testing.T) {
	f := &fake{containers: []api.Container{{ID: testID, Name: "web", State: api.State{Status: api.StatusRunning}, Link: &api.Link{Ports: []api.PortSpec{
		{HostPort: 8443, ContainerPort: 443, Protocol: "tcp"}, {HostIP: "::", HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
		{HostIP: "127.0.0.1", HostPort: 53, ContainerPort: 53, Protocol: "udp"}, {HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
	}}}}}
	brig(t, f, "port", "web").wants(t, 0, "53/udp -> 127.0.0.1:53\n80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n443/tcp -> 0.0.0.0:8443\n")
	brig(t, f, "port", "web", "80").wants(t, 0, "0.0.0.0:8080\n[::]:8080\n")
	brig(t, f, "port", "web", "53/udp").wants(t, 0, "127.0.0.1:53\n")
	brig(t, f, "port", "web", "53").complains(t, 1, "brig: no public port '53/tcp' published for web\n")
	brig(t, f, "port", "web", "x").complains(t, 1, "brig: invalid port: \"x\"")
}

// TestExitCodes holds every kind of failure against docker's code.
func TestExitCodes(t *testing.T) {
	missing := api.Errorf(api.CommandNotFound, "exec: \"frob\": not found in $PATH")
	barred := api.Errorf(api.CommandNotRunnable, "exec: \"/etc\": permission denied")
	broken := errors.New("disk full")
	c := api.Container{ID: testID, Name: "c", State: api.State{Status: api.StatusRunning}}
	for _, x := range []struct {
		line string
		err  error
		exit int
		want int
		says string
	}{
		{"run img", nil, 0, 0, ""},
		{"run img", nil, 42, 42, ""},
		{"run img", nil, 137, 137, ""},
		{"run img", missing, 0, 127, "brig: exec: \"frob\": not found"},
		{"run img", barred, 0, 126, "brig: exec: \"/etc\": permission denied"},
		{"run img", broken, 0, 125, "brig: disk full\n\nRun 'brig run --help' for more information\n"},
		{"run", nil, 0, 1, "brig: 'brig run' requires at least 1 argument\n\nUsage:  brig run [OPTIONS] IMAGE"},
		{"create img", broken, 0, 1, "brig: disk full\n"},
		{"create --bogus img", nil, 0, 125, "brig: unknown flag: --bogus\n\nUsage:  brig create"},
		{"exec c frob", nil, 3, 3, ""},
		{"exec c frob", missing, 0, 127, "brig: exec:"},
		{"exec c frob", barred, 0, 126, "brig: exec:"},
		{"exec c frob", broken, 0, 1, "brig: disk full\n"},
		{"exec --bogus c frob", nil, 0, 125, "brig: unknown flag: --bogus"},
		{"exec c", nil, 0, 1, "brig: 'brig exec' requires at least 2 arguments"},
		{"exec -it c sh", nil, 0, 1, "brig: the input device is not a TTY\n"},
		{"start c", broken, 0, 1, "brig: disk full\n"},
		{"start -a c", nil, 9, 9, ""},
		{"start -a c d", nil, 0, 1, "brig: you cannot start and attach multiple containers at once\n"},
		{"start -a nobody", nil, 0, 1, "brig: no container nobody\n"},
		{"attach c", nil, 4, 4, ""},
		{"attach c", broken, 0, 1, "brig: disk full\n"},
		{"ps --bogus", nil, 0, 125, "brig: unknown flag: --bogus\n\nUsage:  brig ps [OPTIONS]\n\nRun 'brig ps --help' for more information\n"},
		{"ps x", nil, 0, 1, "brig: 'brig ps' accepts no arguments"},
		{"ps", broken, 0, 1, "brig: disk full\n"},
		{"ps --filter colour=red", nil, 0, 125, "brig: invalid argument \"colour=red\" for \"-f, --filter\" flag: invalid filter 'colour'"},
		{"ps --format {{", nil, 0, 64, "brig: template parsing error"},
		{"info", broken, 0, 1, "brig: disk full\n"},
		{"pull i", broken, 0, 1, "brig: disk full\n"},
		{"logs", nil, 0, 1, "brig: 'brig logs' requires at least 1 argument"},
		{"frob", nil, 0, 1, "brig: unknown command: brig frob\n\nRun 'brig --help' for more information\n"},
		{"--bogus", nil, 0, 125, "brig: unknown flag: --bogus"},
		{"--root", nil, 0, 125, "brig: flag needs an argument: --root"},
	} {
		f := &fake{err: x.err, exit: api.Exit{Code: x.exit}, containers: []api.Container{c}}
		r := brig(t, f, strings.Fields(x.line)...)
		if r.code != x.want || !strings.HasPrefix(progressless(r.errOut), x.says) || x.says == "" && r.errOut != "" {
			t.Errorf("%s with %v: code %d, %q\nwant %d, %q", x.line, x.err, r.code, r.errOut, x.want, x.says)
		}
	}
}

func progressless(s string) string { return strings.TrimPrefix(s, "progress\n") }

func TestFolders(t *testing.T) {
	t.Setenv("BRIG_STATE", "/env/state")
	t.Setenv("BRIG_ROOT", "")
	var got []string
	a := &app{streams: api.Streams{Stdout: &strings.Builder{}}, signals: newCatcher(func() {})}
	defer a.signals.stop()
	a.newEngine = func(o Options) Engine {
		got = append(got, o.Root, o.State)
		return &fake{}
	}
	a.main(t.Context(), []string{"--root", "/flag/root", "ps"})
	if want := []string{"/flag/root", "/env/state"}; !slices.Equal(got, want) {
		t.Errorf("engine on %q, want %q", got, want)
	}
}

func TestDebug(t *testing.T) {
	f := &fake{err: fmt.Errorf("outer: %w", api.Errorf(api.Exhausted, "inner: %w", errors.New("root cause")))}
	r := brig(t, f, "--debug", "info")
	for _, want := range []string{"brig: outer: inner: root cause\n", "debug: kind: exhausted\n", "*errors.errorString: root cause\n"} {
		if !strings.Contains(r.errOut, want) {
			t.Errorf("lacks %q:\n%s", want, r.errOut)
		}
	}
	if r := brig(t, f, "info"); strings.Contains(r.errOut, "debug") {
		t.Errorf("speaks of causes without --debug:\n%s", r.errOut)
	}
}

func TestAttachChoice(t *testing.T) {
	for line, want := range map[string]api.Attach{
		"run img":                              {Stdout: true, Stderr: true},
		"run -i img":                           {Stdin: true, Stdout: true, Stderr: true},
		"run -t img":                           {Stdout: true, Stderr: true, TTY: true},
		"run -a stdout img":                    {Stdout: true},
		"run -a STDERR -a stdin img":           {Stderr: true}, // nothing reads without -i
		"run -i -a STDERR -a stdin img":        {Stdin: true, Stderr: true},
		"run -i -a stdout img":                 {Stdout: true},
		"run --detach-keys ctrl-x,q img":       {Stdout: true, Stderr: true, DetachKeys: []byte{24, 'q'}},
		"start -a c":                           {Stdout: true, Stderr: true},
		"start -ai --detach-keys a c":          {Stdin: true, Stdout: true, Stderr: true, DetachKeys: []byte("a")},
		"start -ai closed":                     {Stdout: true, Stderr: true},
		"attach c":                             {Stdin: true, Stdout: true, Stderr: true},
		"attach --no-stdin c":                  {Stdout: true, Stderr: true},
		"attach --detach-keys ctrl-@,ctrl-_ c": {Stdin: true, Stdout: true, Stderr: true, DetachKeys: []byte{0, 31}},
	} {
		f := &fake{containers: []api.Container{{Name: "c", ID: "c", Spec: api.ContainerSpec{Interactive: true}}, {Name: "closed", ID: "x"}}}
		r := brig(t, f, strings.Fields(line)...)
		if f.attach == nil {
			t.Errorf("%s: not attached: %s", line, r.errOut)
			continue
		}
		got := *f.attach
		got.Streams = api.Streams{}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
	f := &fake{}
	brig(t, f, "run", "-a", "stdin", "img").wants(t, 0, testID+"\n") // nothing else tells what runs
	brig(t, f, "run", "-d", "img")
	if f.attach != nil {
		t.Error("run -d is attached")
	}
}

func TestExecSpec(t *testing.T) {
	t.Setenv("HERE", "1")
	f := &fake{}
	brig(t, f, "exec", "-d", "-e", "A=b", "--env", "HERE", "-u", "1:2", "-w", "/w", "--privileged", "-t", "--detach-keys", "x", "c", "ls", "-l")
	want := api.ExecSpec{Command: []string{"ls", "-l"}, Env: []string{"A=b", "HERE=1"}, User: "1:2", WorkingDir: "/w",
		Privileged: true, Detach: true, TTY: true, DetachKeys: []byte("x")}
	if got := fmt.Sprintf("%+v", f.exec); got != fmt.Sprintf("%+v", want) {
		t.Errorf("got %s\nwant %+v", got, want)
	}
}

func TestStartupError(t *testing.T) {
	f := &fake{exit: api.Exit{Code: 127, Error: "exec: frob: no such file"}}
	brig(t, f, "run", "img", "frob").complains(t, 127, "brig: exec: frob: no such file\n")
}

func TestLogs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60, time.UTC)
	f := &fake{log: []api.LogEntry{{Time: at, Stream: "stdout", Line: []byte("one\n")}, {Time: at, Stream: "stderr", Line: []byte("two")}}}
	r := brig(t, f, "logs", "c")
	r.wants(t, 0, "one\n")
	if r.errOut != "two" {
		t.Errorf("errors %q", r.errOut)
	}
	if o := f.logOptions; o.Tail != -1 || o.Follow || !o.Since.IsZero() || !o.Until.IsZero() {
		t.Errorf("options %+v", o)
	}
	brig(t, f, "logs", "-t", "-f", "-n", "5", "--since", "2026-01-02T03:04:05Z", "--until", "10m", "c").wants(t, 0, "2026-01-02T03:04:05.000000060Z one\n")
	o := f.logOptions
	if o.Tail != 5 || !o.Follow || !o.Since.Equal(at.Truncate(time.Second)) || time.Since(o.Until).Round(time.Minute) != 10*time.Minute {
		t.Errorf("options %+v", o)
	}
	brig(t, f, "logs", "--tail", "some", "c").complains(t, 125, "brig: invalid argument \"some\"")
	brig(t, f, "logs", "--since", "yore", "c").complains(t, 125, "brig: invalid argument \"yore\"")
}

func TestTransfers(t *testing.T) {
	img := api.Image{Name: "docker.io/library/debian:12", ID: "sha256:abc"}
	img.Target.Digest = "sha256:def"
	for _, x := range []struct {
		line, out string
		fresh     bool
		want      api.TransferRequest
	}{
		{"pull debian:12", "Digest: sha256:def\nStatus: Downloaded newer image for debian:12\ndocker.io/library/debian:12\n", true,
			api.TransferRequest{Op: "pull", NoStatus: true, Refs: []string{"debian:12"}}},
		{"pull debian:12", "Digest: sha256:def\nStatus: Image is up to date for debian:12\ndocker.io/library/debian:12\n", false,
			api.TransferRequest{Op: "pull", NoStatus: true, Refs: []string{"debian:12"}}},
		{"pull -q --tls-verify=false --platform linux/arm64 debian:12", "docker.io/library/debian:12\n", true,
			api.TransferRequest{Op: "pull", NoStatus: true, Refs: []string{"debian:12"}, Quiet: true, Insecure: true, Platform: "linux/arm64"}},
		{"load -i f.tar", "Loaded image: debian:12\n", true, api.TransferRequest{Op: "load", File: "f.tar"}},
		{"load -q", "Loaded image: debian:12\n", true, api.TransferRequest{Op: "load", Quiet: true}},
		{"save -o f.tar a b", "", false, api.TransferRequest{Op: "save", Refs: []string{"a", "b"}, File: "f.tar"}},
		{"save --format oci-dir -o d a", "", false, api.TransferRequest{Op: "save", Refs: []string{"a"}, File: "d", Format: "oci-dir"}},
	} {
		f := &fake{reply: api.TransferReply{Images: []api.Image{img}, Fresh: x.fresh}}
		r := brig(t, f, strings.Fields(x.line)...)
		r.wants(t, 0, x.out)
		if fmt.Sprintf("%+v", f.request) != fmt.Sprintf("%+v", x.want) {
			t.Errorf("%s: %+v, want %+v", x.line, f.request, x.want)
		}
		if quiet := r.errOut == ""; quiet != x.want.Quiet {
			t.Errorf("%s: progress %q", x.line, r.errOut)
		}
	}
	f := &fake{reply: api.TransferReply{Images: []api.Image{{ID: "sha256:abc"}}}}
	brig(t, f, "load").wants(t, 0, "Loaded image ID: sha256:abc\n")
	f.reply = api.TransferReply{Error: "not there", Kind: api.NotFound}
	brig(t, f, "pull", "-q", "x").complains(t, 1, "brig: not there\n")
	brig(t, f, "save", "--format", "oci-dir", "x").complains(t, 1, "brig: a layout folder cannot be written")
	brig(t, f, "save", "--format", "zip", "x").complains(t, 125, "brig: invalid argument \"zip\"")
	brig(t, f, "pull", "-a", "x:1").complains(t, 1, "brig: tag can't be used with --all-tags/-a")
	f.reply = api.TransferReply{Images: []api.Image{img, img}, Fresh: true}
	brig(t, f, "pull", "-a", "debian").wants(t, 0, "Digest: sha256:def\nDigest: sha256:def\nStatus: Downloaded newer image for debian\ndocker.io/library/debian\n")
	if !f.request.AllTags {
		t.Errorf("pull -a asks for %+v", f.request)
	}
}

// TestSelftestEscape: each level that can be used is tried, the flag's alone where it is given, and what should hold and does not is the exit code.
func TestSelftestEscape(t *testing.T) {
	states := []api.IsolationState{{Level: api.IsolationChroot}, {Level: api.IsolationContainer, Available: true}, {Level: api.IsolationVM, Available: true}}
	f := &fake{found: api.ProbeHolds, info: api.Info{Isolation: states}}
	r := brig(t, f, "selftest", "escape")
	r.wants(t, 0, `LEVEL           PROBE     EXPECTED   FOUND     WHAT      HOW
container       mount     holds      holds     mount     so
container       kill      open       open                
containerauto   mount     holds      holds     mount     so
containerauto   kill      open       open                
vm              mount     holds      holds     mount     so
vm              kill      open       open                
`)
	f = &fake{found: api.ProbeOpen, info: api.Info{Isolation: states}}
	r = brig(t, f, "selftest", "escape", "--isolation", "vm", "--format", "json")
	if r.code != 1 || !strings.Contains(r.out, `{"level":"vm","probe":"mount","what":"mount","expected":"holds","found":"open","how":"so"}`) || !strings.Contains(r.errOut, "1 of 2 attempts got out") {
		t.Errorf("a way out: %+v", r)
	}
	f = &fake{found: api.ProbeHolds, info: api.Info{Isolation: states}}
	r = brig(t, f, "selftest", "escape", "--userns", "host")
	if r.code != 0 || !strings.Contains(r.errOut, "WARNING: level container,userns was not tried: ") || len(f.calls) != 2 {
		t.Errorf("an option that contradicts one level: %+v %v", r, f.calls)
	}
	brig(t, &fake{info: api.Info{}}, "selftest", "escape").complains(t, 1, "brig: no level of isolation can be used here")
	brig(t, f, "selftest", "escape", "--format", "xml").complains(t, 125, `brig: invalid format "xml": use json`)
}

// TestVMKernel: what there is stands in a table or as JSON; what is in use and cannot be is told.
func TestVMKernel(t *testing.T) {
	f := &fake{kernels: []api.VMKernel{
		{Path: "/var/lib/brig/vm/kernel", Source: "store", Version: "6.1-brig", Used: true}, {Path: "/usr/libexec/brig/vm-kernel", Source: "brig", Version: "6.0-brig"},
		{Path: "/boot/vmlinuz-6.1", Source: "host", Trouble: "it lacks CONFIG_VIRTIO_FS"},
	}}
	brig(t, f, "vm", "kernel", "ls").wants(t, 0, `VERSION     SOURCE    PATH                          STATUS
6.1-brig    store     /var/lib/brig/vm/kernel       in use
6.0-brig    brig      /usr/libexec/brig/vm-kernel   usable
<unknown>   host      /boot/vmlinuz-6.1             it lacks CONFIG_VIRTIO_FS
`)
	brig(t, f, "vm", "kernel", "ls", "--format", "json").wants(t, 0, `{"path":"/var/lib/brig/vm/kernel","source":"store","version":"6.1-brig","used":true}
{"path":"/usr/libexec/brig/vm-kernel","source":"brig","version":"6.0-brig","used":false}
{"path":"/boot/vmlinuz-6.1","source":"host","version":"","used":false,"trouble":"it lacks CONFIG_VIRTIO_FS"}
`)
	f.kernels[0] = api.VMKernel{Path: "/k", Source: "BRIG_VM_KERNEL", Used: true, Trouble: "it is no Linux kernel"}
	if r := brig(t, f, "vm", "kernel", "ls"); !strings.Contains(r.out, "in use, and no good: it is no Linux kernel") {
		t.Errorf("%+v", r)
	}
	r := brig(t, f, "vm", "kernel", "install", "--config", "c", "--modules", "m", "vmlinux")
	if r.code != 0 || r.out != "6.1-brig\n" || !strings.Contains(r.errOut, "BRIG_VM_KERNEL names another") || f.calls[len(f.calls)-1] != "install kernel vmlinux c m " {
		t.Errorf("%+v %v", r, f.calls)
	}
	if r := brig(t, f, "vm", "kernel", "install", "--package", "linux-image-cloud-amd64"); r.code != 0 || f.calls[len(f.calls)-1] != "install kernel    linux-image-cloud-amd64" {
		t.Errorf("%+v %q", r, f.calls)
	}
	brig(t, f, "vm", "kernel", "install", "--package", "p", "vmlinux").complains(t, 1, "brig: 'brig vm kernel install' requires 0 arguments")
	brig(t, f, "vm", "kernel", "install", "--package", "p", "--modules", "m").complains(t, 125, "brig: --package has a configuration and modules of its own")
	brig(t, f, "vm", "kernel", "install", "--package", "").complains(t, 125, "brig: --package: it names none")
	brig(t, f, "vm", "kernel", "install").complains(t, 1, "brig: 'brig vm kernel install' requires 1 argument")
	brig(t, f, "vm", "kernel", "ls", "--format", "xml").complains(t, 125, `brig: invalid format "xml": use json`)
	brig(t, f, "vm", "kernel", "rm").wants(t, 0, "")
}
