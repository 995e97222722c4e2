package powercut

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/engine"
	"brig/internal/engine/transfer"
	"brig/internal/store/garbage"
	"brig/test/machine"
)

// step is a command and what it changes. A new command gets a step in one of the stories, with its effects.
type step struct {
	args   []string
	effect facts
	remade bool // done again it makes another thing of the same name
	once   bool // what it does cannot be done twice: done again, that there is nothing left to do is no failure
}

// story is a series of commands on one store.
type story struct {
	name  string
	setup []step // undisturbed, and durable when the story begins
	steps []step
	// packed says that layers are kept as images, which takes another disk for what is built of a trace.
	packed bool
}

// stories are what is interrupted. X stands for the registry.
func (w *world) stories() []story {
	img := func(tag string) string { return w.host + "/x:" + tag }
	target := func(tag string) string { return w.registry.Tags[tag].String() }
	pull := func(tag string) step {
		return step{args: []string{"pull", "-q", img(tag)}, effect: facts{"image " + img(tag): target(tag)}}
	}
	oneArchive, twoArchive := w.archives()
	load := step{args: []string{"load", "-q", "-i", oneArchive}, effect: facts{"image " + img("one"): "*"}}
	gone := func(args ...string) step {
		return step{args: args, effect: facts{"image " + args[len(args)-1]: ""}, once: true}
	}
	forget := func(tag string) step {
		return step{args: []string{"(forget)", img(tag)}, effect: facts{"image " + img(tag): ""}}
	}
	return []story{
		{name: "pull", steps: []step{pull("one"), pull("two"), pull("new")}},
		{name: "load", steps: []step{load, {args: []string{"load", "-q", "-i", twoArchive}, effect: facts{"image docker.io/library/two:1": "*"}}}},
		{name: "move", setup: []step{pull("one"), pull("two")}, steps: []step{ // a name goes from one image to another, which stays untagged
			{args: []string{"tag", img("one"), "moves:1"}, effect: facts{"image docker.io/library/moves:1": target("one")}},
			{args: []string{"load", "-q", "-i", w.moved()}, effect: facts{"image docker.io/library/moves:1": "*"}},
		}},
		{name: "rmi", setup: []step{pull("one"), pull("two"), pull("new")}, steps: []step{
			gone("rmi", img("one")),
			{args: []string{"tag", img("two"), "again:1"}, effect: facts{"image docker.io/library/again:1": target("two")}},
			gone("rmi", img("two")),
			{args: []string{"rmi", "again:1"}, effect: facts{"image docker.io/library/again:1": ""}, once: true},
		}},
		{name: "run", setup: []step{pull("one")}, steps: []step{
			{args: []string{"run", "--network", "none", "--name", "first", "-v", "kept:/data", img("one")}, effect: facts{"container first": "exited 0", "volume kept": "*"}},
			{args: []string{"create", "--network", "none", "--name", "second", img("one")}, effect: facts{"container second": "created"}},
			{args: []string{"start", "-a", "second"}, effect: facts{"container second": "exited 0"}},
			{args: []string{"run", "--rm", "--network", "none", img("one")}},
			{args: []string{"rm", "first"}, effect: facts{"container first": ""}, once: true},
			{args: []string{"rm", "-f", "second"}, effect: facts{"container second": ""}, once: true},
		}},
		{name: "pod", steps: []step{
			{args: []string{"pod", "create", "--replace", "--network", "none", "--name", "pp"}, effect: facts{"pod pp": "Created"}, remade: true},
			{args: []string{"pod", "create", "--replace", "--network", "none", "--name", "qq"}, effect: facts{"pod qq": "Created"}, remade: true},
			{args: []string{"pod", "rm", "pp"}, effect: facts{"pod pp": ""}, once: true},
			{args: []string{"pod", "rm", "qq"}, effect: facts{"pod qq": ""}, once: true},
		}},
		{name: "network", setup: []step{pull("one"), {args: []string{"create", "--network", "none", "--name", "first", img("one")}, effect: facts{"container first": "created"}}}, steps: []step{
			{args: []string{"network", "create", "--ignore", "blue"}, effect: facts{"network blue": "there"}},
			{args: []string{"network", "create", "--ignore", "red"}, effect: facts{"network red": "there"}},
			{args: []string{"create", "--network", "blue", "--name", "second", img("one")}, effect: facts{"container second": "created", "network blue of second": "on"}},
			{args: []string{"network", "connect", "red", "second"}, effect: facts{"network red of second": "on"}, once: true},
			{args: []string{"network", "disconnect", "blue", "second"}, effect: facts{"network blue of second": ""}, once: true},
			{args: []string{"network", "rm", "blue"}, effect: facts{"network blue": ""}, once: true},
		}},
		{name: "secret", steps: []step{
			{args: []string{"secret", "create", "--replace", "word", w.secretFile("one")}, effect: facts{"secret word": "there"}, remade: true},
			{args: []string{"secret", "create", "--replace", "other", w.secretFile("two")}, effect: facts{"secret other": "there"}, remade: true},
			{args: []string{"secret", "create", "--replace", "word", w.secretFile("two")}, effect: facts{"secret word": "there"}, remade: true},
			{args: []string{"secret", "rm", "word"}, effect: facts{"secret word": ""}, once: true},
			{args: []string{"secret", "rm", "other"}, effect: facts{"secret other": ""}, once: true},
		}},
		{name: "packed", packed: true, setup: []step{pull("one")}, steps: []step{
			pull("huge"),
			{args: []string{"run", "--network", "none", "--name", "third", img("huge")}, effect: facts{"container third": "exited 0"}},
			{args: []string{"rm", "third"}, effect: facts{"container third": ""}, once: true},
			gone("rmi", img("huge")),
		}},
		{name: "prune", setup: []step{pull("one"), pull("two"), pull("new"), forget("one"), forget("new")}, steps: []step{
			{args: []string{"system", "prune", "-f"}},
			pull("new"),
			{args: []string{"system", "prune", "-a", "-f"}, effect: facts{"image " + img("two"): "", "image " + img("new"): ""}},
		}},
		{name: "commit", setup: []step{pull("one"), {args: []string{"run", "--network", "none", "--name", "first", img("one")}, effect: facts{"container first": "exited 0"}}}, steps: []step{
			{args: []string{"commit", "first", "committed:1"}, effect: facts{"image docker.io/library/committed:1": "*"}, remade: true},
			{args: []string{"import", w.layerFile(), "imported:1"}, effect: facts{"image docker.io/library/imported:1": "*"}, remade: true},
			{args: []string{"run", "--rm", "--network", "none", "committed:1"}},
		}},
	}
}

// archives are one image in the form of docker save, and another, of another name, as an OCI archive.
func (w *world) archives() (one, two string) {
	root, state := w.place("made"), w.place("state")
	one, two = filepath.Join(w.dir, "one.tar"), filepath.Join(w.dir, "two.tar")
	for _, args := range [][]string{
		{"pull", "-q", w.host + "/x:one"}, {"save", "-o", one, w.host + "/x:one"},
		{"pull", "-q", w.host + "/x:two"}, {"tag", w.host + "/x:two", "two:1"}, {"save", "-o", two, "two:1"},
	} {
		w.must(nil, machine.Command(root, state, args...))
	}
	return one, two
}

// moved is an archive in which the name moves:1 is the third image's.
func (w *world) moved() string {
	root, state, archive := w.place("made"), w.place("state"), filepath.Join(w.dir, "moved.tar")
	for _, args := range [][]string{{"pull", "-q", w.host + "/x:new"}, {"tag", w.host + "/x:new", "moves:1"}, {"save", "-o", archive, "moves:1"}} {
		w.must(nil, machine.Command(root, state, args...))
	}
	return archive
}

// layerFile is an archive of a root file system.
func (w *world) layerFile() string {
	file := filepath.Join(w.dir, "rootfs.tar")
	if err := os.WriteFile(file, layer(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, "", &tar.Header{Name: "bin/alive", Mode: 0o755}, string(alive())), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// secretFile is a file with a secret.
func (w *world) secretFile(data string) string {
	file := filepath.Join(w.dir, "secret-"+data)
	if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// command prepares a step's command.
func (s step) command(root, state string) *exec.Cmd {
	if s.args[0][0] != '(' {
		return machine.Command(root, state, s.args...)
	}
	cmd := exec.Command("/proc/self/exe", append([]string{root}, s.args...)...)
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	return cmd
}

// helperEnv has the test program do a step that is no command of Brig's.
const helperEnv = "BRIG_POWERCUT_HELPER"

func helper() {
	if os.Getenv(helperEnv) == "" {
		return
	}
	if err := help(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// help makes an image forgotten, as a pull leaves it that was killed before it had a name.
func help(root string, args []string) error {
	s := garbage.Open(root)
	l, err := s.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	return errors.Join(s.Content.RemoveRef(args[1]), s.Meta.RemoveImage(args[1]))
}

// again does a step in this process, which is quicker than a command; false: it must be a command.
func (s step) again(root, state string) (bool, error) {
	ctx, t := context.Background(), transfer.New(root)
	t.Stdout, t.Stderr = io.Discard, io.Discard
	var err error
	switch last := s.args[len(s.args)-1]; s.args[0] {
	case "pull":
		_, err = t.Do(ctx, api.TransferRequest{Op: "pull", Refs: []string{last}, Quiet: true})
	case "load":
		_, err = t.Do(ctx, api.TransferRequest{Op: "load", File: last, Quiet: true})
	case "tag":
		err = engine.New(root, state, "").Tag(ctx, s.args[1], last)
	case "rmi":
		_, err = engine.New(root, state, "").RemoveImage(ctx, last, false)
	default:
		return false, nil
	}
	if s.once && errors.Is(err, api.NotFound) {
		err = nil
	}
	return true, err
}

// same reports whether a command that was not done in this process ended as it should.
func (s step) ended(r machine.Result) bool {
	said := strings.ToLower(r.Err)
	return r.Code == 0 || s.once && slices.ContainsFunc([]string{"no such", "not found", "already exists in network", "is not connected"}, func(words string) bool {
		return strings.Contains(said, words)
	})
}
