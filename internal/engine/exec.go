package engine

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/runtime"
	"brig/internal/runtime/config"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim"
)

// Exec runs one more process in a running container and waits for it, unless it is detached. With tools it is in a container of its own where that one does not run.
func (e *Engine) Exec(ctx context.Context, name string, x api.ExecSpec, s api.Streams) (api.Exit, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return api.Exit{}, err
	}
	ct, err := e.running(ctx, &c)
	if x.Tools != "" && errors.Is(err, api.Conflict) {
		return e.debugEnded(ctx, &c, &x, s)
	}
	if err != nil {
		return api.Exit{}, err
	}
	if len(x.Network.Networks) > 0 || x.Network.Mode != "" {
		return api.Exit{}, api.Errorf(api.Conflict, "container %s is running, and its network is the shell's: leave --network out", c.Name)
	}
	if x.Tools != "" && x.User == "" {
		x.User = "0"
	}
	if err := e.notPaused(&c, "execute a command in it"); err != nil {
		return api.Exit{}, err
	}
	run, err := e.execProcess(&c, &x)
	if err != nil {
		return api.Exit{}, err
	}
	if x.Tools != "" {
		if err := e.lend(ctx, &run, x.Tools, s); err != nil {
			return api.Exit{}, err
		}
	}
	execID, command := id.New(), strings.Join(x.Command, " ")
	begun := []api.Event{happened(&c, "exec_create: "+command, "execID", execID), happened(&c, "exec_start: "+command, "execID", execID)}
	if x.Detach {
		st, err := ct.ExecAttached(ctx, run, nil)
		if err != nil {
			return api.Exit{}, err
		}
		e.note(begun...)
		return api.Exit{}, st.Close()
	}
	a := api.Attach{Stdin: x.Interactive, Stdout: true, Stderr: true, TTY: x.TTY, Streams: s, DetachKeys: x.DetachKeys, Size: x.Size}
	want := wanted(&a)
	st, err := ct.ExecAttached(ctx, run, &want)
	if err != nil {
		return api.Exit{}, err
	}
	defer st.Close()
	e.note(begun...)
	session := e.join(c.ID, st, a)
	if x.TTY && s.Terminal != nil {
		defer followSize(s.Terminal, session.Resize)()
	}
	exit, err := session.Wait(ctx)
	if err == nil {
		e.note(happened(&c, "exec_die", "execID", execID, "exitCode", strconv.Itoa(exit.Code)))
	}
	return exit, err
}

// execProcess is the container's own process with what the exec changes.
func (e *Engine) execProcess(c *api.Container, x *api.ExecSpec) (run runtime.Exec, err error) {
	data, err := os.ReadFile(filepath.Join(e.meta.Dir(c.ID), "config.json"))
	if err != nil {
		return run, err
	}
	spec, err := config.DecodePart(data)
	if err == nil && spec.Process == nil {
		err = errors.New("config.json: process is missing")
	}
	if err != nil { // Brig itself has written it
		return run, &api.Error{Kind: api.Corrupt, Msg: "container " + c.Name, Err: err}
	}
	p := *spec.Process
	if len(x.Command) == 0 || x.Command[0] == "" {
		return run, api.Errorf(api.InvalidArgument, "exec: no command was given")
	}
	p.Args, p.Terminal, p.ConsoleSize = x.Command, x.TTY, nil
	if x.TTY && x.Size.Rows > 0 {
		p.ConsoleSize = boxOf(x.Size)
	}
	if x.TTY && !slices.ContainsFunc(p.Env, func(v string) bool { return len(v) > 5 && v[:5] == "TERM=" }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Env = mergeEnv(p.Env, x.Env)
	if x.WorkingDir != "" {
		p.Cwd = path.Join("/", x.WorkingDir)
	}
	user := spec.Annotations[oci.AnnotationUser]
	if strings.Contains(x.User, ",") {
		return run, api.Errorf(api.InvalidArgument, "user %q is not a valid user or group", x.User)
	}
	if x.User != "" {
		user = withGroups(x.User, c.Spec.Groups)
	}
	names, err := rights(&c.Spec, c.Spec.Privileged || x.Privileged)
	if err != nil {
		return run, err
	}
	if isChroot(&c.Spec) && !x.Privileged {
		if state, err := shim.ReadState(e.sandboxDir(c.ID)); err == nil && state.Cgroup == "" {
			names = withoutNodes(&c.Spec, names)
		}
	}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: names}
	if isRoot(user) || c.Spec.Privileged || x.Privileged {
		p.Capabilities.Effective, p.Capabilities.Permitted = names, names
	}
	return runtime.Exec{Process: p, User: user, Files: x.Files}, nil
}

var _ runtime.Attacher = live(nil)
