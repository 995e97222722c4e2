package conform

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"brig/test/machine"
)

// peers are the runcs whose command line brig-oci has: Debian's and the newest.
func peers(t *testing.T) map[string]string {
	t.Helper()
	installed(t, "runc", "runc")
	return map[string]string{"runc of Debian": "runc", "newest runc": must[string](t)(filepath.Abs(filepath.Join(cache, "runc", "runc")))}
}

var verbs = []string{
	"checkpoint", "create", "delete", "events", "exec", "features", "kill", "list", "pause", "ps", "restore", "resume", "run", "spec", "start", "state", "update",
}

// flagsOf reads the flags that a help text of urfave/cli lists: with their dashes, and whether they take a value.
func flagsOf(help string) map[string]bool {
	_, options, ok := strings.Cut(help, "OPTIONS:\n")
	if !ok {
		return nil
	}
	out := map[string]bool{}
	line := regexp.MustCompile(`(?m)^ {3}(-.*?)(?: {2,}.*)?$`)
	for _, m := range line.FindAllStringSubmatch(options, -1) {
		for _, form := range strings.Split(m[1], ", ") {
			name, value, _ := strings.Cut(form, " ")
			out[name] = value == "value"
		}
	}
	return out
}

func TestFlagsOf(t *testing.T) {
	got := flagsOf("USAGE:\n   -x\n\nOPTIONS:\n   --bundle value, -b value  path to the root, --deep\n   --tty, -t                 a terminal\n   --empty-ns value\n   \n")
	want := map[string]bool{"--bundle": true, "-b": true, "--tty": false, "-t": false, "--empty-ns": true}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// unknownFlag is what brig-oci says of a flag that it does not have.
const unknownFlag = "is not known"

// TestCommandLine: brig-oci knows each flag of each verb of runc's, global ones too, and wants a value for those that take one.
func TestCommandLine(t *testing.T) {
	gated(t)
	brig := client{brigOCI(), "--root", t.TempDir()}
	// The test can fail: a flag that nobody has is told.
	if r := brig.do(t, "", "state", "--no-such-flag"); r.code == 0 || !strings.Contains(r.err, unknownFlag) {
		t.Fatalf("state --no-such-flag: %v; want %q", r, unknownFlag)
	}
	all := peers(t)
	t.Chdir(t.TempDir()) // some flags make files
	for name, path := range all {
		t.Run(name, func(t *testing.T) {
			peer := client{path}
			flags := flagsOf(peer.must(t, "--help"))
			if len(flags) < 8 {
				t.Fatalf("global flags of %s: %v", name, flags)
			}
			for _, m := range regexp.MustCompile(`(?m)^ {3}([a-z]+)(?:, h)? {2,}\S`).FindAllStringSubmatch(peer.must(t, "--help"), -1) {
				if m[1] != "help" && !slices.Contains(verbs, m[1]) {
					t.Errorf("%s has a command %s, which is not checked", name, m[1])
				}
			}
			for flag, value := range flags {
				knows(t, brig, nil, flag, value)
			}
			for _, verb := range verbs {
				if r := brig.do(t, "", verb, "--help"); r.code != 0 || !strings.Contains(r.out, "Usage:") {
					t.Errorf("%s --help: %v", verb, r)
					continue
				}
				for flag, value := range flagsOf(peer.must(t, verb, "--help")) {
					knows(t, brig, []string{verb}, flag, value)
				}
			}
		})
	}
}

// knows gives a flag without what else the command needs: whatever brig-oci says, it is not that the flag is unknown.
func knows(t *testing.T, brig client, verb []string, flag string, value bool) {
	t.Helper()
	if slices.Contains([]string{"--help", "-h", "--version", "-v"}, flag) {
		return
	}
	with := func(args ...string) []string { return append(slices.Clone(verb), args...) }
	if !value {
		if r := brig.do(t, "", with(flag, "a", "b", "c", "d")...); strings.Contains(r.err, unknownFlag) || strings.Contains(r.err, "needs a value") {
			t.Errorf("%v %s: %s", verb, flag, r.err)
		}
		return
	}
	for _, args := range [][]string{{flag, "1", "a", "b", "c", "d"}, {flag + "=1", "a", "b", "c", "d"}} {
		if r := brig.do(t, "", with(args...)...); strings.Contains(r.err, unknownFlag) {
			t.Errorf("%v %v: %s", verb, args, r.err)
		}
	}
	if r := brig.do(t, "", with(flag)...); r.code == 0 || strings.Contains(r.err, unknownFlag) {
		t.Errorf("%v %s without its value: %v", verb, flag, r)
	}
}

// bundle makes a bundle whose process is args, from runc's own example.
func bundle(t *testing.T, args ...string) string {
	t.Helper()
	dir := must[string](t)(os.MkdirTemp("", "bundle"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	if _, _, err := machine.Busybox(dir, imageName); err != nil {
		t.Fatal(err)
	}
	make := exec.Command("runc", "spec", "-b", dir)
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	file := filepath.Join(dir, "config.json")
	var config map[string]any
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(file)), &config); err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"], process["args"] = false, args
	config["annotations"] = map[string]string{"org.example.key": "value"}
	if err := os.WriteFile(file, must[[]byte](t)(json.Marshal(config)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// background runs a runtime whose container may keep its standard streams: they go nowhere.
func (c client) background(t *testing.T, args ...string) {
	t.Helper()
	cmd := c.command(args...)
	errs := filepath.Join(t.TempDir(), "errors")
	f := must[*os.File](t)(os.Create(errs))
	defer f.Close()
	cmd.Stderr = f
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(errs)
		t.Fatalf("%s %v: %v: %s", filepath.Base(c[0]), args, err, text)
	}
}

// subject starts a container that sleeps, with each of the runtimes.
func subject(t *testing.T, paths map[string]string) map[string]client {
	t.Helper()
	dir := bundle(t, "sleep", "1000")
	out := map[string]client{}
	for name, path := range paths {
		c := client{path, "--root", t.TempDir()}
		id := "conform-" + strings.ReplaceAll(name, " ", "-")
		c.background(t, "run", "-d", "-b", dir, id)
		t.Cleanup(func() { c.do(t, "", "delete", "--force", id) })
		out[name] = append(c, "ID="+id)
	}
	return out
}

// at runs a command, in which ID stands for the container's name.
func (c client) at(t *testing.T, args ...string) result {
	t.Helper()
	id := strings.TrimPrefix(c[len(c)-1], "ID=")
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "ID", id)
	}
	return c[:len(c)-1].do(t, "", args...)
}

// keys lists the paths of a JSON document: a.b[].c.
func keys(v any) []string {
	seen := map[string]bool{}
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				seen[path+"."+k] = true
				walk(inner, path+"."+k)
			}
		case []any:
			seen[path+"[]"] = true
			for _, inner := range v {
				walk(inner, path+"[]")
			}
		}
	}
	walk(v, "")
	return slices.Sorted(maps.Keys(seen))
}

// TestJSON: what runc prints of a container as JSON, brig-oci prints of the same container with the same keys.
func TestJSON(t *testing.T) {
	gated(t)
	paths := peers(t)
	paths["brig-oci"] = brigOCI()
	subjects := subject(t, paths)
	// open are parts whose keys are names of things: annotations, sizes of huge pages; controllers of a newer runc; and flags of seccomp, of which
	// Debian's runc does not tell yet, and the newest not without libseccomp.
	open := regexp.MustCompile(`^\.(annotations|data\.(hugetlb|intel_rdt))\.|\.(psi|cpuset|knownFlags|supportedFlags)\b`)
	for _, args := range [][]string{{"state", "ID"}, {"list", "--format", "json"}, {"ps", "--format", "json", "ID"}, {"events", "--stats", "ID"}, {"features"}} {
		t.Run(args[0], func(t *testing.T) {
			got := map[string][]string{}
			for name, c := range subjects {
				r := c.at(t, args...)
				if r.code != 0 {
					t.Fatalf("%s: %v", name, r)
				}
				var v any
				if err := json.Unmarshal([]byte(r.out), &v); err != nil {
					t.Fatalf("%s: %v: %s", name, err, r.out)
				}
				got[name] = slices.DeleteFunc(keys(v), open.MatchString)
			}
			for name := range subjects {
				for _, k := range got[name] {
					if !slices.Contains(got["brig-oci"], k) {
						t.Errorf("%s has %s", name, k)
					}
				}
			}
			for _, k := range got["brig-oci"] {
				if !slices.Contains(got["newest runc"], k) && !slices.Contains(got["runc of Debian"], k) {
					t.Errorf("only brig-oci has %s", k)
				}
			}
		})
	}
}

// TestExitCodes: the same commands, right and wrong ones, end with the same code as with runc.
func TestExitCodes(t *testing.T) {
	gated(t)
	installed(t, "runc", "runc")
	subjects := subject(t, map[string]string{"runc": "runc", "brig-oci": brigOCI()})
	missing, failing := bundle(t, "/no/such/file"), bundle(t, "sh", "-c", "exit 9")
	empty := t.TempDir()
	for _, args := range [][]string{
		{"state", "ID"}, {"state", "nobody"}, {"state"}, {"state", "ID", "more"}, {"state", "--nonsense", "ID"}, {"no-such-verb"},
		{"--version"}, {"--help"}, {"help"}, {"state", "--help"}, {"--nonsense"},
		{"list"}, {"list", "-q"}, {"list", "--format", "table"}, {"list", "--format", "nonsense"},
		{"ps", "ID"}, {"ps", "ID", "-ef"}, {"ps", "--format", "nonsense", "ID"}, {"ps", "nobody"},
		{"exec", "ID", "true"}, {"exec", "ID", "sh", "-c", "exit 3"}, {"exec", "ID", "/no/such/file"}, {"exec", "ID", "/etc/passwd"}, {"exec", "ID"}, {"exec", "nobody", "true"},
		{"exec", "ID", "sh", "-c", "kill -KILL $$"}, {"exec", "-d", "ID", "true"}, {"exec", "--user", "1000:1000", "ID", "id"}, {"exec", "--cwd", "/no/such/folder", "ID", "true"},
		{"exec", "--env", "A=b", "ID", "sh", "-c", "test $A = b"}, {"exec", "--cap", "CAP_NONSENSE", "ID", "true"},
		{"kill", "ID", "0"}, {"kill", "ID", "WINCH"}, {"kill", "ID", "SIGWINCH"}, {"kill", "ID", "28"}, {"kill", "ID", "NONSENSE"}, {"kill", "nobody"}, {"kill"},
		{"pause", "ID"}, {"exec", "ID", "true"}, {"pause", "nobody"}, {"state", "ID"}, {"resume", "ID"}, {"resume", "ID"}, {"resume", "nobody"},
		{"update", "--memory", "67108864", "ID"}, {"update", "--pids-limit", "50", "ID"}, {"update", "--memory", "nonsense", "ID"}, {"update", "nobody", "--memory", "1"},
		{"update", "--cpu-quota", "50000", "--cpu-period", "100000", "ID"}, {"update", "-r", "/no/such/file", "ID"},
		{"events", "--stats", "nobody"}, {"start", "ID"}, {"start", "nobody"}, {"create", "-b", failing, "ID"}, {"create", "-b", empty, "other"}, {"create", "-b", missing, "a/b"},
		{"run", "-b", failing, "conform-x"}, {"run", "-b", missing, "conform-x"}, {"create", "-b", missing, "conform-x"},
		{"delete", "ID"}, {"delete", "nobody"}, {"delete", "--force", "nobody"}, {"delete"}, {"delete", "--force", "ID"}, {"delete", "--force", "ID"}, {"state", "ID"}, {"list", "-q"},
	} {
		a, b := subjects["runc"].at(t, args...), subjects["brig-oci"].at(t, args...)
		if a.code != b.code {
			t.Errorf("%s: runc %v;\n  brig-oci %v", strings.Join(args, " "), a, b)
		}
		if (a.code == 0) != (b.code == 0) || (len(b.err) == 0) != (len(a.err) == 0) {
			t.Errorf("%s: runc says %q, brig-oci %q", strings.Join(args, " "), a.err, b.err)
		}
	}
}

// TestTexts: what people and scripts read has the form of runc's: tables with the same columns, one name a line, spec's example.
func TestTexts(t *testing.T) {
	gated(t)
	installed(t, "runc", "runc")
	subjects := subject(t, map[string]string{"runc": "runc", "brig-oci": brigOCI()})
	for _, c := range []struct {
		args []string
		form string // a pattern whose first group must be the same; "": the whole text
	}{
		{[]string{"list"}, `^(ID +PID +STATUS +BUNDLE +CREATED +OWNER) *\nconform-\S+ +\d+ +running +/\S+ +\d{4}-\d\d-\d\dT[\d:.]+Z +root *\n$`},
		{[]string{"list", "-q"}, `^conform-\S+(\n)$`},
		{[]string{"ps", "ID"}, `^(UID.*)\n(?:.*)sleep 1000\n$`},
		{[]string{"ps", "ID", "-o", "pid,args"}, `^( +PID +COMMAND)\n *\d+ sleep 1000\n$`},
		{[]string{"exec", "ID", "sh", "-c", "echo out; echo $0 $PATH"}, ""},
		{[]string{"exec", "-e", "A=b", "--cwd", "/tmp", "-u", "7:8", "-g", "9", "ID", "sh", "-c", "echo $A; pwd; id"}, ""},
		{[]string{"exec", "ID", "env"}, ""},
		{[]string{"exec", "--cap", "CAP_NET_ADMIN", "ID", "grep", "Cap", "/proc/self/status"}, ""},
		{[]string{"exec", "--no-new-privs", "ID", "grep", "NoNewPrivs", "/proc/self/status"}, ""},
		{[]string{"--version"}, `(?m)^\S+ version \S+\n(?:.*\n)*?(spec: )\d`},
	} {
		a, b := subjects["runc"].at(t, c.args...), subjects["brig-oci"].at(t, c.args...)
		if c.form != "" {
			form := regexp.MustCompile(c.form)
			for _, r := range []*result{&a, &b} {
				if m := form.FindStringSubmatch(r.out); m != nil {
					r.out = strings.Join(strings.Fields(m[1]), " ") // columns are as wide as what is in them
				} else {
					t.Errorf("%v does not have the form %s: %q", c.args, c.form, r.out)
				}
			}
		}
		if a.out != b.out || a.code != 0 || b.code != 0 {
			t.Errorf("%v: runc %v\n  brig-oci %v", c.args, a, b)
		}
	}
}

// TestSpec: the example that brig-oci writes is a config that runc takes, and has runc's fields.
func TestSpec(t *testing.T) {
	gated(t)
	installed(t, "runc", "runc")
	dir := bundle(t, "true")
	file := filepath.Join(dir, "config.json")
	fields := map[string][]string{}
	for name, path := range map[string]string{"runc": "runc", "brig-oci": brigOCI()} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		client{path}.must(t, "spec", "-b", dir)
		var v map[string]any
		if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(file)), &v); err != nil {
			t.Fatal(err)
		}
		fields[name] = keys(v)
		process := v["process"].(map[string]any)
		process["terminal"], process["args"] = false, []string{"sh", "-c", "exit 6"}
		if err := os.WriteFile(file, must[[]byte](t)(json.Marshal(v)), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, by := range []string{"runc", brigOCI()} {
			client{by, "--root", t.TempDir()}.ends(t, 6, "", "run", "-b", dir, "conform-spec")
		}
	}
	for _, k := range fields["runc"] {
		if strings.HasPrefix(k, ".process.capabilities.ambient") {
			continue // the newest runc gives none either
		}
		if !slices.Contains(fields["brig-oci"], k) {
			t.Errorf("the example of brig-oci lacks %s", k)
		}
	}
}
