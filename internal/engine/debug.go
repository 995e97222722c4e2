package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/runtime"
)

// toolFolders are where an image has its programs.
var toolFolders = [...]string{"bin", "sbin", "usr/bin", "usr/sbin"}

// tools finds the only layer of an image whose programs are lent to a container, and where its files are. A program of it can be executed if it needs nothing
// else of the image, as those of brig/base do.
func (e *Engine) tools(ctx context.Context, image string, s api.Streams, b *bringing) (diffID, dir string, err error) {
	spec := api.ContainerSpec{Image: image}
	img, err := e.imageFor(ctx, &spec, s, b)
	if err != nil {
		return "", "", err
	}
	if len(img.Layers) != 1 {
		return "", "", api.Errorf(api.Unsupported, "image %s has %d layers: tools come from an image of one, with programs that need no library, as %s", image, len(img.Layers), api.ToolsImage)
	}
	diffID = img.Layers[0].DiffID
	lowers, err := e.snapshot.Lowers([]string{diffID})
	if err != nil {
		return "", "", err
	}
	if link, err := os.Readlink(filepath.Join(lowers[0], "bin/sh")); err == nil && filepath.IsAbs(link) {
		return "", "", api.Errorf(api.Unsupported, "image %s: its bin/sh leads to %s, which is the container's there; fetch a newer one with `brig pull %s`", image, link, image)
	}
	return diffID, lowers[0], nil
}

// withTools is an environment in which the programs of dir, at [api.ToolsDir], are found behind those that are found anyhow.
func withTools(env []string, dir string) []string {
	const name = "PATH="
	path := ""
	var o []string
	for _, v := range env {
		if strings.HasPrefix(v, name) {
			path = v[len(name):]
			continue
		}
		o = append(o, v)
	}
	for _, sub := range toolFolders {
		if unix.Access(filepath.Join(dir, sub), unix.F_OK) == nil {
			path += ":" + api.ToolsDir + "/" + sub
		}
	}
	return append(o, name+strings.TrimPrefix(path, ":"))
}

// lend has a process find the programs of an image behind those of its container: its layer is mounted where the process alone sees it.
func (e *Engine) lend(ctx context.Context, run *runtime.Exec, image string, s api.Streams) (err error) {
	var b bringing
	defer b.end()
	if _, run.Tools, err = e.tools(ctx, image, s, &b); err != nil {
		return err
	}
	run.Process.Env = withTools(run.Process.Env, run.Tools)
	return nil
}

// debugEnded runs a command with tools on what a container that does not run has left: in a container of its own, which goes with the command. Nothing of the
// other changes: what it has written is one more layer below that of the new one, and what it has mounted is read-only.
func (e *Engine) debugEnded(ctx context.Context, of *api.Container, x *api.ExecSpec, s api.Streams) (api.Exit, error) {
	cl, err := e.claim(ctx, of, false, false) // until the new one has its files
	if err != nil {
		return api.Exit{}, err
	}
	held := true
	release := func() {
		if held {
			held = false
			cl.Release()
		}
	}
	defer release()
	if *of, err = e.meta.Container(of.ID); err != nil { // while we waited it may have been removed
		return api.Exit{}, err
	}
	switch {
	case of.State.Status == api.StatusDead:
		return api.Exit{}, api.Errorf(api.Conflict, "container %s is dead: remove it with `brig rm -f %s`", of.ID, of.ID)
	case e.isRunning(of.ID):
		return api.Exit{}, api.Errorf(api.Conflict, "container %s has been started by another process at this moment: try again", of.Name)
	}
	if err := e.stillTrusted(ctx, of); err != nil {
		return api.Exit{}, err
	}
	var b bringing
	defer b.end()
	diffID, dir, err := e.tools(ctx, x.Tools, s, &b)
	if err != nil {
		return api.Exit{}, err
	}
	layers := e.snapshot
	if root := of.Spec.Rootfs; root.Overlay {
		return api.Exit{}, api.Errorf(api.Unsupported, "container %s does not run, and its files are a layer above the folder %s: start it, or look at `brig diff` and `brig export`", of.Name, root.Dir)
	} else if root.Dir != "" {
		layers = layers.Over(root.Dir)
	}
	upper, err := e.snapshot.Upper(of.ID)
	switch {
	case err == nil:
		layers = layers.Over(upper)
	case !errors.Is(err, api.NotFound): // else it was never started
		return api.Exit{}, err
	}
	c := likeEnded(of, x)
	if err := e.checkLevel(&c.Spec); err != nil {
		return api.Exit{}, err
	}
	if c.Spec.Mounts, err = e.leftMounts(ctx, of, s); err != nil {
		return api.Exit{}, err
	}
	c.Spec.Mounts = append(c.Spec.Mounts, api.MountSpec{
		Type: "bind", Source: dir, Target: api.ToolsDir, ReadOnly: true, NonRecursive: true, Flags: []string{"nosuid", "nodev"}, IDMap: api.IDMapNone, Layers: []string{diffID},
	})
	c.Spec.Env = withTools(environment(&c), dir)
	c.Spec.UnsetEnvAll, c.Spec.BaseEnv, c.Spec.MergeEnv = true, nil, nil // it is all of it
	if err := e.nameNetworks(&c.Spec.Network); err != nil {
		return api.Exit{}, err
	}
	a := api.Attach{Stdin: x.Interactive, Stdout: true, Stderr: true, TTY: x.TTY, Streams: s, DetachKeys: x.DetachKeys, Size: x.Size}
	l, err := e.launch(ctx, &c, &a, true, layers, way{})
	release()
	if err != nil {
		return api.Exit{}, err
	}
	session := e.session(l, a)
	if x.TTY && s.Terminal != nil {
		defer followSize(s.Terminal, session.Resize)()
	}
	exit, err := session.Wait(ctx)
	if err != nil && !errors.Is(err, api.ErrDetached) { // broken off: nobody wants it any more
		err = errors.Join(err, e.remove(context.WithoutCancel(ctx), c.ID, true, true))
	}
	return exit, err
}

// likeEnded is a container for a command on what another has left: with its layers, environment, user, working directory, rights and limits, and without what it
// has a part in outside of itself: network, ports, pod, namespaces of others, devices, secrets.
func likeEnded(of *api.Container, x *api.ExecSpec) api.Container {
	was := &of.Spec
	c := api.Container{
		ID: id.New(), Created: time.Now().UTC(), Image: of.Image, ImageName: of.ImageName, ImageConfig: of.ImageConfig, Layers: of.Layers, Args: x.Command,
		Spec: api.ContainerSpec{
			Image: was.Image, Platform: was.Platform, Isolation: was.Isolation, AutoRemove: true, Init: true, Interactive: x.Interactive, TTY: x.TTY,
			BaseEnv: was.BaseEnv, MergeEnv: was.MergeEnv, UnsetEnvAll: was.UnsetEnvAll, Env: append(was.Env[:len(was.Env):len(was.Env)], x.Env...),
			WorkingDir: was.WorkingDir, User: was.User, Groups: was.Groups, Umask: was.Umask, Timezone: was.Timezone, Caller: was.Caller, UserNS: was.UserNS,
			Hostname: hostname(of), Domainname: was.Domainname, Network: x.Network,
			Privileged: was.Privileged || x.Privileged, CapAdd: was.CapAdd, CapDrop: was.CapDrop, Security: was.Security,
			Limits: was.Limits, Ulimits: was.Ulimits, ShmSize: was.ShmSize, Log: api.LogConfig{Driver: api.LogNone},
		},
	}
	c.Name = of.Name + "-debug-" + c.ID[:6]
	c.Spec.Name = c.Name
	if x.WorkingDir != "" {
		c.Spec.WorkingDir = path.Join("/", x.WorkingDir)
	}
	if x.User != "" {
		c.Spec.User = x.User
	}
	if c.Spec.UserNS.Mode == api.UserNSAuto { // ids of its own: what is on the disk has the container's numbers
		c.Spec.UserNS.UIDMap, c.Spec.UserNS.GIDMap = nil, nil
	}
	if isChroot(&c.Spec) {
		c.Spec.Hostname = "" // the host's
	} else if n := &c.Spec.Network; n.Mode == "" && len(n.Networks) == 0 {
		n.Mode, n.AddHosts = "none", was.Network.AddHosts
	}
	return c
}

// leftMounts are a container's mounts for who looks at what it has left: nothing is written to them, made for them or copied into them. What is not there any
// more is left out, with a word about it: it may be why the container does not run.
func (e *Engine) leftMounts(ctx context.Context, of *api.Container, out api.Streams) (list []api.MountSpec, err error) {
	for _, m := range of.Spec.Mounts {
		leaveOut := func(why any) {
			fmt.Fprintf(out.Stderr, "WARNING: the %s at %s is left out: %v\n", m.Type, m.Target, why)
		}
		if at := path.Clean(m.Target); at == "/dev" || at == api.ToolsDir {
			leaveOut("the tools are there")
			continue
		}
		switch m.Type {
		case "volume":
			if rec, err := e.volume(m.Source); err == nil && !rec.Used && !m.NoCopy {
				continue // it is empty until the first start, when the image's files come in
			}
			v, err := e.MountVolume(ctx, m.Source)
			if errors.Is(err, api.NotFound) {
				leaveOut(err)
				continue
			}
			if err != nil {
				return nil, err
			}
			m.Type, m.Source = "bind", v.Mountpoint // so that the volume is nobody else's
			if m.IDMap == "" {
				m.IDMap = api.IDMapNone
				if of.Spec.UserNS.Mode != "" {
					m.IDMap = api.IDMapUserNS
				}
			}
		case "tmpfs":
			list = append(list, m)
			continue
		}
		if m.Type == "bind" && !exists(m.Source) {
			leaveOut(m.Source + " does not exist on the host")
			continue
		}
		m.ReadOnly, m.TopReadOnly, m.CreateSource, m.Propagation = true, false, false, ""
		list = append(list, m)
	}
	return list, nil
}
