package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hook writes a line to log: its word, what it sees of the world, and the state that it got.
func hook(log, word string, more string) specs.Hook {
	script := fmt.Sprintf(`log=$1; [ -d /brig-here ] && log=/brig-here/log
state=$(cat)
echo "%s|$(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/net) $(readlink /proc/self/ns/user)|$*|$HOOK,$HOME|$state" >>"$log"
%s`, word, more)
	path := "/bin/busybox"
	return specs.Hook{Path: path, Args: []string{"sh", "-c", script, "hook", log, "arg 2"}, Env: []string{"HOOK=" + word, "PATH=/bin"}}
}

// call is one line of the log.
type call struct {
	word, ns, args, env string
	state               specs.State
}

func calls(t *testing.T, log string) (list []call, words []string) {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 5)
		if len(f) != 5 {
			t.Fatalf("line %q", line)
		}
		c := call{word: f[0], ns: f[1], args: f[2], env: f[3]}
		if err := json.Unmarshal([]byte(f[4]), &c.state); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		list, words = append(list, c), append(words, c.word)
	}
	return list, words
}

// allHooks has two hooks of each kind; startContainer's write into the container's /brig-here, which is a folder of the host's.
func (w *world) allHooks(s *specs.Spec, log string) {
	h := &specs.Hooks{}
	for _, n := range []string{"1", "2"} {
		h.Prestart = append(h.Prestart, hook(log, "prestart"+n, "")) //nolint:staticcheck // deprecated, and still written by engines
		h.CreateRuntime = append(h.CreateRuntime, hook(log, "createRuntime"+n, ""))
		h.CreateContainer = append(h.CreateContainer, hook(log, "createContainer"+n, ""))
		h.StartContainer = append(h.StartContainer, hook(log, "startContainer"+n, ""))
		h.Poststart = append(h.Poststart, hook(log, "poststart"+n, ""))
		h.Poststop = append(h.Poststop, hook(log, "poststop"+n, ""))
	}
	s.Hooks = h
	s.Annotations = map[string]string{"org.example": "ä \"quoted\""}
	s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: filepath.Dir(log), Destination: "/brig-here", Options: []string{"rbind"}})
}

// logFolder is a folder of its own for hooks' logs, which everybody may write.
func (w *world) logFolder() string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "hooks")
	if err != nil {
		w.t.Fatal(err)
	}
	os.Chmod(dir, 0o777)
	return dir
}

// TestHooks: order, state, namespaces, arguments and environment of all six kinds, with and without a user namespace.
func TestHooks(t *testing.T) {
	for name, edit := range map[string]func(*world, *specs.Spec){
		"plain": func(*world, *specs.Spec) {}, "user namespace": func(w *world, s *specs.Spec) { w.mapUsers(s) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			log := w.logFolder() + "/log"
			os.WriteFile(log, nil, 0o666)
			os.Chmod(log, 0o666)
			bundle := w.bundle(func(s *specs.Spec) { w.allHooks(s, log); edit(w, s) }, "sleep", "100")
			id := w.created(bundle)
			atCreate := []string{"prestart1", "prestart2", "createRuntime1", "createRuntime2", "createContainer1", "createContainer2"}
			if _, words := calls(t, log); !slices.Equal(words, atCreate) {
				t.Errorf("create ran %v, want %v", words, atCreate)
			}
			w.must("start", id)
			pid := w.state(id).Pid
			inside := namespaces(t, fmt.Sprint(pid))
			outside := namespaces(t, "self")
			w.must("kill", id, "KILL")
			w.becomes(id, "stopped")
			w.must("delete", id)
			list, words := calls(t, log)
			want := append(atCreate, "startContainer1", "startContainer2", "poststart1", "poststart2", "poststop1", "poststop2")
			if !slices.Equal(words, want) {
				t.Fatalf("ran %v, want %v", words, want)
			}
			for _, c := range list {
				kind := strings.TrimRight(c.word, "12")
				wantNS, wantPid, wantStatus := outside, pid, specs.StateCreating
				switch kind {
				case "createContainer":
					wantNS = inside
				case "startContainer":
					wantNS, wantStatus = inside, specs.StateCreated
					wantPid = c.state.Pid
					if c.state.Pid != pid && c.state.Pid != 1 {
						t.Errorf("%s: pid %d", c.word, c.state.Pid)
					}
				case "poststart":
					wantStatus = specs.StateRunning
				case "poststop":
					wantPid, wantStatus = 0, specs.StateStopped
				}
				if c.ns != wantNS {
					t.Errorf("%s ran in %s, want %s", c.word, c.ns, wantNS)
				}
				s := c.state
				if s.Version == "" || s.ID != id || s.Bundle != bundle || s.Status != wantStatus || s.Pid != wantPid || s.Annotations["org.example"] != "ä \"quoted\"" {
					t.Errorf("%s got %+v, want status %s, pid %d", c.word, s, wantStatus, wantPid)
				}
				if c.args != log+" arg 2" || c.env != c.word+"," {
					t.Errorf("%s: arguments %q, environment %q: want its own alone", c.word, c.args, c.env)
				}
			}
		})
	}
}

// namespaces are a process's, as hook writes them.
func namespaces(t *testing.T, pid string) string {
	t.Helper()
	var list []string
	for _, n := range []string{"mnt", "net", "user"} {
		ns, err := os.Readlink("/proc/" + pid + "/ns/" + n)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, ns)
	}
	return strings.Join(list, " ")
}

// TestHooksOfRun: run runs them all, in order.
func TestHooksOfRun(t *testing.T) {
	w := newWorld(t)
	log := w.logFolder() + "/log"
	w.must("run", "--bundle", w.bundle(func(s *specs.Spec) { w.allHooks(s, log) }, "true"), w.name())
	_, words := calls(t, log)
	want := "prestart1 prestart2 createRuntime1 createRuntime2 createContainer1 createContainer2 startContainer1 startContainer2 poststart1 poststart2 poststop1 poststop2"
	if got := strings.Join(words, " "); got != want {
		t.Errorf("ran %s, want %s", got, want)
	}
}

// TestHookChangesTheRoot: createRuntime and createContainer hooks come before the root is closed; engines mount networks' and GPUs' files then.
func TestHookChangesTheRoot(t *testing.T) {
	w := newWorld(t)
	root := w.dir + "/own"
	if err := makeRoot(root); err != nil {
		t.Fatal(err)
	}
	source := w.logFolder()
	os.WriteFile(source+"/file", []byte("from a hook\n"), 0o644)
	bundle := w.bundle(func(s *specs.Spec) {
		s.Root.Path = root
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/mount", Args: []string{"mount", "--bind", source, root + "/brig-here"}}}}
	}, "cat", "/brig-here/file")
	if out := w.must("run", "--bundle", bundle, w.name()); out != "from a hook" {
		t.Errorf("the container sees %q", out)
	}
}

// TestHookFails: a hook that says no, up to the start, ends the container; its words and its name are in the error. One that comes later is a warning, and the next is run.
func TestHookFails(t *testing.T) {
	w := newWorld(t)
	dir := w.logFolder()
	one := 1
	for _, c := range []struct {
		kind string
		set  func(*specs.Hooks, []specs.Hook)
		verb string // that fails
	}{
		{"prestart", func(h *specs.Hooks, l []specs.Hook) { h.Prestart = l }, "create"}, //nolint:staticcheck // deprecated
		{"createRuntime", func(h *specs.Hooks, l []specs.Hook) { h.CreateRuntime = l }, "create"},
		{"createContainer", func(h *specs.Hooks, l []specs.Hook) { h.CreateContainer = l }, "create"},
		{"startContainer", func(h *specs.Hooks, l []specs.Hook) { h.StartContainer = l }, "start"},
		{"poststart", func(h *specs.Hooks, l []specs.Hook) { h.Poststart = l }, ""},
		{"poststop", func(h *specs.Hooks, l []specs.Hook) { h.Poststop = l }, ""},
	} {
		for _, how := range []struct {
			name, words string
			hook        specs.Hook
		}{
			{"says no", "no way", specs.Hook{Path: "/bin/busybox", Args: []string{"sh", "-c", "echo no way >&2; exit 3"}}},
			{"is killed", "", specs.Hook{Path: "/bin/busybox", Args: []string{"sh", "-c", "kill -9 $$"}}},
			{"is missing", "", specs.Hook{Path: "/no/such/hook"}},
			{"takes too long", "timeout", specs.Hook{Path: "/bin/busybox", Args: []string{"sleep", "100"}, Timeout: &one}},
		} {
			t.Run(c.kind+" "+how.name, func(t *testing.T) {
				w.t = t
				log := dir + "/" + w.name()
				bundle := w.bundle(func(s *specs.Spec) {
					s.Hooks = &specs.Hooks{}
					c.set(s.Hooks, []specs.Hook{how.hook, hook(log, "next", "")})
					if c.kind != "poststop" {
						s.Hooks.Poststop = []specs.Hook{hook(log, "poststop", "")}
					}
				}, "sleep", "100")
				id := w.name()
				t.Cleanup(func() { w.run("delete", "--force", id) })
				w.flags = []string{"--log", log + ".log"}
				defer func() { w.flags = nil }()
				name := "hooks." + c.kind + "[0]"
				if c.kind == "startContainer" {
					name = "startContainer hook"
				}
				ended := 1 // how often poststop is to run
				switch c.verb {
				case "create":
					ended = 3
					w.fails(1, name, "create", "--bundle", bundle, id)
					w.fails(1, how.words, "create", "--bundle", bundle, id)
					w.fails(1, name, "run", "--bundle", bundle, id)
				case "start":
					w.must("create", "--bundle", bundle, id)
					w.fails(1, name, "start", id)
					w.becomes(id, "stopped")
					w.must("delete", id)
					w.fails(1, name, "run", "--bundle", bundle, id)
					ended = 2
				default:
					w.must("create", "--bundle", bundle, id)
					w.must("start", id)
					if s := w.state(id).Status; s != "running" {
						t.Errorf("it is %s", s)
					}
					w.must("delete", "--force", id)
					if text := w.read(log + ".log"); !strings.Contains(text, "level=warning") || !strings.Contains(text, name) {
						t.Errorf("no warning about %s:\n%s", name, text)
					}
				}
				if w.has(id) {
					t.Error("the container is left")
				}
				_, words := calls(t, log)
				n := 0
				for _, word := range words {
					if word == "poststop" {
						n++
					}
				}
				if next := slices.Contains(words, "next"); next != (c.verb == "") || c.kind != "poststop" && n != ended {
					t.Errorf("ran %v after the one that failed", words)
				}
			})
		}
	}
	w.t = t
}

// TestHookKillsTheRuntime: what hooks have set up for a creation that was killed is taken down with the rest of it.
func TestHookKillsTheRuntime(t *testing.T) {
	w := newWorld(t)
	log := w.logFolder() + "/log"
	bundle := w.bundle(func(s *specs.Spec) {
		s.Annotations = map[string]string{"a": "b"}
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook(log, "createRuntime", "kill -9 $PPID")}, Poststop: []specs.Hook{hook(log, "poststop", "")}}
	}, "true")
	id := w.name()
	for i, next := range [][]string{{"delete", id}, {"create", "--bundle", w.bundle(nil, "true"), id}} {
		if r := w.run("create", "--bundle", bundle, id); r.code != -1 {
			t.Errorf("the runtime was not killed: %s", r)
		}
		w.must(next...)
		list, words := calls(t, log)
		if want := []string{"createRuntime", "poststop", "createRuntime", "poststop"}[:2*i+2]; !slices.Equal(words, want) {
			t.Fatalf("ran %v, want %v", words, want)
		}
		if s := list[len(list)-1].state; s.ID != id || s.Bundle != bundle || s.Status != specs.StateStopped || s.Annotations["a"] != "b" {
			t.Errorf("poststop got %+v", s)
		}
	}
	w.must("delete", id)
}

// TestHookInheritsNothing: a hook has standard streams and no descriptor of the runtime's.
func TestHookInheritsNothing(t *testing.T) {
	w := newWorld(t)
	dir := w.logFolder()
	list := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/busybox", Args: []string{"sh", "-c", "d=$1; [ -d /brig-here/out ] && d=/brig-here; ls /proc/self/fd | tr '\\n' ' ' >$d/out/" + name, "h", dir}}}
	}
	os.Mkdir(dir+"/out", 0o777)
	w.must("run", "--bundle", w.bundle(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: list("a"), CreateContainer: list("b"), StartContainer: list("c"), Poststart: list("d"), Poststop: list("e")}
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: dir, Destination: "/brig-here", Options: []string{"rbind"}})
	}, "true"), w.name())
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if fds := w.read(dir + "/out/" + name); fds != "0 1 2 3 " { // 3 is the folder that ls reads
			t.Errorf("hook %s has descriptors %s", name, fds)
		}
	}
}
