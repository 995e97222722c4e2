package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/base/sigpipe"
	"brig/internal/kernel/proc"
	"brig/internal/runtime/config"
	"brig/internal/runtime/criu"
	"brig/internal/runtime/oci"
)

func restoreFlags() []flag {
	return append(criuFlags(),
		flag{"bundle", "b", isString, "folder of config.json (default: the working directory)"},
		flag{"console-socket", "", isString, "refused: a container with a terminal cannot be checkpointed"},
		flag{"detach", "d", isBool, "return when the container runs"},
		flag{"pid-file", "", isString, "file to write the process's number to"},
		flag{"no-subreaper", "", isBool, "do not become the parent of orphans; brig-oci never does"},
		flag{"no-pivot", "", isBool, "refused: criu changes the root with pivot_root(2)"},
		flag{"lsm-profile", "", isString, "TYPE:NAME of an LSM profile instead of the bundle's"},
		flag{"lsm-mount-context", "", isString, "SELinux context of the mounts"},
	)
}

// restoring is a container on its way back.
type restoring struct {
	e    *entry
	lock *lock.Lock
	spec *specs.Spec
	nest *oci.Nest
	all  *criu.Restored
	p    *oci.Process
}

// undo takes back a container that could not be restored.
func (r *restoring) undo() {
	if r.all != nil {
		r.all.Kill()
	}
	if r.p != nil {
		r.p.Reap()
		r.p.Close()
	}
	if r.nest != nil {
		r.nest.Remove()
	}
	lock.RemoveHeld(r.e.dir, lockName)
	r.lock.Release()
}

// restore is `brig-oci restore`.
func restore(c *call) (int, error) {
	for _, name := range [...]string{"console-socket", "no-pivot"} {
		if f := find(restoreFlags(), name); c.has(name) && c.str(name) != "false" {
			return 0, api.Errorf(api.Unsupported, "restore: flag --%s is %s: leave it out", name, f.help)
		}
	}
	o, err := c.criuOptions()
	if err != nil {
		return 0, err
	}
	streams, err := criu.LoadStreams(o.Images)
	if err != nil {
		return 0, err
	}
	criu.Probe(c.criu)
	r, data, err := c.newRestoring()
	if err != nil {
		return 0, err
	}
	if err := c.makeAgain(r, o, streams, data); err != nil {
		r.undo()
		return 0, err
	}
	signals := -1
	if !c.on("detach") {
		if signals, err = sigpipe.Catch(sigpipe.All); err != nil {
			r.undo()
			return 0, err
		}
	}
	r.all.Release()
	if err := r.lock.Release(); err != nil || c.on("detach") {
		return 0, err
	}
	exit, err := c.attend(r.p, signals)
	if err != nil {
		return 0, err
	}
	return exit.Code, c.removeEnded(r.e, nil)
}

// newRestoring reads the bundle and takes the container's name.
func (c *call) newRestoring() (*restoring, []byte, error) {
	bundle, err := filepath.Abs(c.str("bundle"))
	if err != nil {
		return nil, nil, err
	}
	data, err := readConfig(filepath.Join(bundle, configName))
	if err != nil {
		return nil, nil, api.Errorf(api.InvalidArgument, "bundle: %w", err)
	}
	s, err := config.Decode(data)
	if err != nil {
		return nil, nil, err
	}
	if err := oci.Validate(s); err != nil {
		return nil, nil, err
	}
	if err := criu.Validate(s); err != nil {
		return nil, nil, err
	}
	//nolint:staticcheck // Prestart is deprecated, and still written by engines.
	if h := s.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime) > 0 {
		return nil, nil, api.Errorf(api.Unsupported, "hooks.prestart, hooks.createRuntime: a restore cannot run them in this version of brig-oci")
	}
	root := s.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	l, err := c.claim(c.args[0])
	if err != nil {
		return nil, nil, err
	}
	return &restoring{lock: l, spec: s, e: &entry{
		Version: s.Version, ID: c.args[0], Bundle: bundle, Rootfs: root, Created: time.Now().UTC(), Annotations: s.Annotations, dir: c.dir(c.args[0]),
	}}, data, nil
}

// makeAgain has criu make the processes, looks at them and records them. They are stopped then.
func (c *call) makeAgain(r *restoring, o criu.Options, streams criu.Streams, data []byte) error {
	e := r.e
	req := &oci.Request{ID: e.ID, Spec: r.spec, Bundle: e.Bundle, RootPath: e.Rootfs, Rootless: c.goWithoutCgroup(), Systemd: c.systemd}
	e.Cgroup = req.CgroupPath()
	err := e.begin(data)
	if err != nil {
		return err
	}
	if r.nest, err = oci.NewNest(req); err != nil {
		return err
	}
	g := r.nest.Cgroup
	if e.Cgroup = ""; g != nil {
		if e.Cgroup = g.Path(); !filepath.IsAbs(e.Cgroup) {
			e.CgroupPaths = g.Paths()
		}
	}
	e.Unit, e.RDT = r.nest.Unit, r.nest.RDT
	o.External = criu.RestoreExternal(r.spec, e.Bundle, g)
	again := &criu.Restore{
		Options: o, Root: e.Rootfs, PidFile: filepath.Join(e.dir, "criu.pid"), CgroupRoots: criu.CgroupRoots(g), First: criu.FirstFD,
		LSMProfile: c.str("lsm-profile"), LSMContext: c.str("lsm-mount-context"),
	}
	switch {
	case again.LSMProfile != "":
		if name, ok := strings.CutPrefix(again.LSMProfile, "apparmor:"); ok {
			r.spec.Process.ApparmorProfile = name
		}
	case r.spec.Process.ApparmorProfile != "":
		again.LSMProfile = "apparmor:" + r.spec.Process.ApparmorProfile
	}
	pid, err := c.runRestore(again, streams, r)
	if err != nil {
		return err
	}
	if r.all, err = criu.Find(pid, g); err != nil {
		return err
	}
	if r.p, err = r.nest.Settle(pid); err != nil {
		return err
	}
	if err := r.all.Check(r.spec, e.Bundle, g); err != nil {
		return err
	}
	e.Pid, e.BootID = pid, proc.BootID()
	if e.StartTicks, err = proc.StartTicks(pid); err != nil {
		return err
	}
	if err := c.writePidFile(pid); err != nil {
		return err
	}
	return e.save()
}

// runRestore runs criu and returns the number of the first process.
func (c *call) runRestore(again *criu.Restore, streams criu.Streams, r *restoring) (int, error) {
	keys, files, done, err := streams.Inherit([3]*os.File{c.stdin, c.stdout, c.stderr})
	if err != nil {
		return 0, err
	}
	defer done()
	again.Inherit = keys
	ns, key, err := criu.NetNS(r.spec)
	if err != nil {
		return 0, err
	}
	if ns != nil {
		defer ns.Close()
		again.Inherit, files = append(again.Inherit, key), append(files, ns)
	}
	c.debugf("%s %q", c.criu, again.Args())
	err = criu.Run(c.criu, again.Args(), files, again.Work, criu.RestoreLog, func(cmd *exec.Cmd) error { return r.nest.Start(cmd) })
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(again.PidFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, errors.New("criu restore: " + again.PidFile + " has no number of a process")
	}
	return pid, nil
}
