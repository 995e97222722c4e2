package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/base/rootless"
	"brig/internal/base/undo"
	"brig/internal/kernel/cgroup"
	"brig/internal/store/garbage"
	"brig/internal/store/meta"
)

// A pod is a record below pod/ and containers that name it. What they share, its infra container holds: an ordinary container of no image, whose
// program is Brig's own init. Who starts a container of the pod starts that first; it is stopped with the pod, and ends with it. Pods are few: who
// looks for one reads them all. pod/.lock is held by who makes or removes one. Meanwhile the record has another name, by which it is no pod's:
//
//	pod/ID.new   its infra container is being made; from one that was killed it is taken back
//	pod/ID.gone  its containers are being removed; from one that was killed the rest of them goes

const (
	podSuffix  = ".json"
	newSuffix  = ".new"
	goneSuffix = ".gone"
)

func (e *Engine) podDir() string           { return filepath.Join(e.root, "pod") }
func (e *Engine) podPath(id string) string { return filepath.Join(e.podDir(), id+podSuffix) }
func podGroup(p *api.Pod) string           { return path.Join("/", p.Spec.CgroupParent, "brig-pod-"+p.ID) }
func shares(p *api.Pod, what string) bool  { return slices.Contains(p.Spec.Share, what) }
func noPod(name string) error              { return api.Errorf(api.NotFound, "no such pod: %s", name) }
func (e *Engine) lockPods() (*lock.Lock, error) {
	if err := atomicfile.MakeDir(e.podDir()); err != nil {
		return nil, err
	}
	return lock.Take(filepath.Join(e.podDir(), ".lock"))
}

// podAside is where a pod's record is while it is being made or removed.
func (e *Engine) podAside(id, suffix string) string { return filepath.Join(e.podDir(), id+suffix) }

// readPod reads a record by its whole ID.
func (e *Engine) readPod(podID string) (p api.Pod, err error) {
	return readPodFile(podID, e.podPath(podID))
}

func readPodFile(podID, path string) (p api.Pod, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err = record.Verify(data); err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err == nil && p.ID != podID {
		err = errors.New("it is the record of another")
	}
	if err != nil {
		return p, &api.Error{Kind: api.Corrupt, Msg: "pod " + podID + ": its record is damaged: remove the file " + path + ", then its containers", Err: err}
	}
	return p, nil
}

// podIDs lists the pods.
func (e *Engine) podIDs() (ids []string, err error) {
	entries, err := os.ReadDir(e.podDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), podSuffix); ok && id.Valid(name) {
			ids = append(ids, name)
		}
	}
	return ids, nil
}

// pod finds a record by name, ID, or a prefix of an ID that no other has.
func (e *Engine) pod(name string) (api.Pod, error) {
	ids, err := e.podIDs()
	if err != nil {
		return api.Pod{}, err
	}
	var found []api.Pod
	for _, podID := range ids {
		p, err := e.readPod(podID)
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil && podID == name:
			return p, err
		case err == nil && (p.Spec.Name == name || p.ID == name):
			return p, nil
		case err == nil && id.Prefix(name) && strings.HasPrefix(p.ID, name):
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return api.Pod{}, noPod(name)
	case 1:
		return found[0], nil
	}
	return api.Pod{}, api.Errorf(api.InvalidArgument, "pod ID %s is ambiguous: it could be %s or %s; give more digits", name, found[0].ID, found[1].ID)
}

// CreatePod makes a pod with its infra container, which is not started. The name being in use, by a pod or a container, is api.Conflict.
func (e *Engine) CreatePod(ctx context.Context, spec api.PodSpec) (p api.Pod, err error) {
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return p, err
	}
	if spec.NoInfra && (spec.InfraName != "" || spec.Hostname != "" || len(spec.Network.Ports) > 0 || spec.Network.Mode != "") {
		return p, api.Errorf(api.InvalidArgument, "a pod without an infra container has nothing that could have a network, ports or a host name: leave out --infra=false, or those flags")
	}
	if spec.NoInfra {
		spec.Share = nil
	}
	if err := checkPodLevel(&spec); err != nil {
		return p, err
	}
	if rootless.Active() && slices.Contains(spec.Share, api.SharePID) && !e.hasGroups() {
		return p, api.Errorf(api.Unsupported, "--share pid: a container without root's rights ends with its PID namespace, since it has no control group: it needs one of its own")
	}
	l, err := e.lockPods()
	if err != nil {
		return p, err
	}
	defer l.Release()
	if err := e.sweepPodsHeld(ctx); err != nil { // what one that was killed has left may have the name
		return p, err
	}
	if err := e.namePod(&spec); err != nil {
		return p, err
	}
	p = api.Pod{ID: id.New(), Created: time.Now().UTC(), Spec: spec}
	if !spec.NoInfra {
		p.Infra = id.New()
	}
	data, err := record.Marshal(p)
	if err != nil {
		return p, err
	}
	var u undo.Stack
	defer u.Run()
	aside := e.podAside(p.ID, newSuffix)
	if err := atomicfile.Write(aside, record.Sign(data), 0o600, atomicfile.Durable); err != nil {
		return p, err
	}
	u.Add(func() { _ = os.Remove(aside) }) // else it is swept
	if !spec.NoInfra {
		if err := e.createInfra(&p); err != nil {
			return p, err
		}
		u.Add(func() { _ = e.remove(context.WithoutCancel(ctx), p.Infra, true, true) })
	}
	if err := os.Rename(aside, e.podPath(p.ID)); err != nil {
		return p, err
	}
	u.Add(func() { _ = os.Remove(e.podPath(p.ID)) })
	if err := atomicfile.SyncDir(e.podDir()); err != nil {
		return p, err
	}
	u.Release()
	return p, nil
}

// sweepPods ends what processes began that were killed while they made or removed a pod.
func (e *Engine) sweepPods(ctx context.Context) {
	aside := func(entry os.DirEntry) bool {
		name := entry.Name()
		return strings.HasSuffix(name, newSuffix) || strings.HasSuffix(name, goneSuffix) || isDraft(entry)
	}
	if entries, err := os.ReadDir(e.podDir()); err != nil || !slices.ContainsFunc(entries, aside) {
		return
	}
	l, err := lock.Try(filepath.Join(e.podDir(), ".lock"))
	if err != nil {
		return // somebody is at it
	}
	defer l.Release()
	_ = e.sweepPodsHeld(ctx) // else the next command tries again
}

// sweepPodsHeld is sweepPods for who holds the lock.
func (e *Engine) sweepPodsHeld(ctx context.Context) error {
	if err := removeDrafts(e.podDir(), isDraft); err != nil {
		return err
	}
	entries, err := os.ReadDir(e.podDir())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(e.podDir(), entry.Name())
		podID, isNew := strings.CutSuffix(entry.Name(), newSuffix)
		if isNew && id.Valid(podID) {
			p, err := readPodFile(podID, path)
			if err == nil && p.Infra != "" {
				if err := e.remove(ctx, p.Infra, true, true); err != nil && !errors.Is(err, api.NotFound) {
					return err
				}
			}
		} else if podID, ok := strings.CutSuffix(entry.Name(), goneSuffix); ok && id.Valid(podID) {
			if err := errors.Join(e.removePodsContainers(ctx, podID), e.removeDead(ctx)); err != nil {
				return err
			}
		} else {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removeDead removes the containers whose removal was cut off, which have no record that would tell what pod they were in. A record that is damaged is one.
func (e *Engine) removeDead(ctx context.Context) error {
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return err
	}
	for _, cid := range ids {
		if c, err := e.meta.Container(cid); err != nil || c.State.Status != api.StatusDead {
			continue
		}
		if err := e.remove(ctx, cid, true, true); err != nil && !errors.Is(err, api.NotFound) {
			return err
		}
	}
	return nil
}

// removePodsContainers removes all containers of a pod, that which holds the namespaces last.
func (e *Engine) removePodsContainers(ctx context.Context, podID string) error {
	all, err := e.List(ctx)
	if err != nil {
		return err
	}
	p := api.Pod{ID: podID}
	fillPod(&p, all)
	slices.SortStableFunc(p.Containers, func(x, y api.Container) int { return infraOrder(&x) - infraOrder(&y) })
	for i := range p.Containers {
		if err := e.remove(ctx, p.Containers[i].ID, true, true); err != nil && !errors.Is(err, api.NotFound) {
			return err
		}
	}
	return nil
}

// namePod finds a name, or looks whether the one that was given is free.
func (e *Engine) namePod(spec *api.PodSpec) error {
	taken := func(name string) error {
		if p, err := e.pod(name); err == nil && p.Spec.Name == name {
			return api.Errorf(api.Conflict, "pod name %q is already in use by pod %s; remove that pod to reuse the name", name, p.ID)
		}
		if c, err := e.meta.Container(name); err == nil && c.Name == name {
			return api.Errorf(api.Conflict, "name %q is already in use by container %s; remove or rename that container to reuse the name", name, c.ID)
		}
		return nil
	}
	if spec.Name != "" {
		if err := meta.CheckName(spec.Name); err != nil {
			return err
		}
		return taken(spec.Name)
	}
	for try := 0; ; try++ {
		spec.Name = randomName(try)
		if err := taken(spec.Name); err == nil || try > 20 {
			return err
		}
	}
}

// createInfra makes the container that holds the pod's namespaces. It has no rights: all it does is to wait.
func (e *Engine) createInfra(p *api.Pod) error {
	s := &p.Spec
	c := api.Container{ID: p.Infra, Name: s.InfraName, Created: p.Created, ImageName: "(infra)", Args: []string{"brig-init"}}
	if c.Name == "" {
		c.Name = p.ID[:12] + "-infra"
	}
	c.Spec = api.ContainerSpec{
		Name: c.Name, Pod: p.ID, Infra: true, Hostname: s.Hostname, Network: s.Network, CapDrop: []string{"ALL"}, Security: []string{"no-new-privileges"},
		Namespaces: api.NamespaceSet{IPC: api.NamespaceShareable, PID: s.PID, UTS: s.UTS}, ShmSize: s.ShmSize, Sysctls: s.Sysctls, Log: api.LogConfig{Driver: api.LogNone},
		Isolation: s.Isolation, Limits: s.Limits,
	}
	if err := e.checkLevel(&c.Spec); err != nil {
		return err
	}
	if s.Network.Mode == api.NamespaceHost {
		c.Spec.Namespaces.UTS = api.NamespaceHost
	} else if c.Spec.Hostname == "" && s.UTS == "" {
		c.Spec.Hostname = s.Name
	}
	if !s.NoShareParent && e.hasGroups() {
		c.Spec.CgroupParent = podGroup(p)
	}
	if err := e.nameNetworks(&c.Spec.Network); err != nil {
		return err
	}
	if err := e.resolve(&c); err != nil {
		return err
	}
	if err := e.check(&c.Spec); err != nil {
		return err
	}
	if err := e.meta.CreateContainer(c, atomicfile.Durable); err != nil {
		return err
	}
	if err := e.checkNetworks(&c); err != nil {
		return errors.Join(err, e.meta.RemoveContainer(c.ID))
	}
	e.note(happened(&c, "create"))
	return nil
}

// intoPod gives a container what its pod shares.
func (e *Engine) intoPod(s *api.ContainerSpec) error {
	p, err := e.pod(s.Pod)
	if err != nil {
		return err
	}
	s.Pod = p.ID
	if !p.Spec.NoShareParent && s.CgroupParent == "" && e.hasGroups() {
		s.CgroupParent = podGroup(&p)
	}
	for _, m := range p.Spec.Mounts {
		if !slices.ContainsFunc(s.Mounts, func(o api.MountSpec) bool { return path.Clean(o.Target) == path.Clean(m.Target) }) {
			s.Mounts = append(s.Mounts, m)
		}
	}
	if p.Infra == "" {
		return nil
	}
	s.Requires = append(s.Requires, p.Infra)
	join := api.NamespaceContainer + p.Infra
	n := &s.Network
	if shares(&p, api.ShareNet) {
		switch {
		case n.Mode != "":
			return api.Errorf(api.InvalidArgument, "network cannot be configured when it is shared with a pod: give --network to `brig pod create`")
		case len(n.Ports) > 0 || n.PublishAll:
			return api.Errorf(api.InvalidArgument, "published ports must be defined when the pod is created: give -p to `brig pod create`")
		case len(n.DNS)+len(n.Search)+len(n.DNSOptions)+len(n.AddHosts) > 0:
			return api.Errorf(api.InvalidArgument, "names of hosts and their servers must be defined when the pod is created: give --add-host, --dns and its kin to `brig pod create`")
		}
		n.Mode = join
	}
	for _, share := range []struct {
		what string
		mode *string
	}{{api.ShareIPC, &s.Namespaces.IPC}, {api.ShareUTS, &s.Namespaces.UTS}, {api.SharePID, &s.Namespaces.PID}} {
		if shares(&p, share.what) && *share.mode == "" {
			*share.mode = join
		}
	}
	if s.Hostname != "" && s.Namespaces.UTS == join {
		return api.Errorf(api.InvalidArgument, "the host name is the pod's: give --hostname to `brig pod create`")
	}
	return nil
}

// removeParent removes the parent in common of a pod's control groups when the last of these, which was at the path group, has gone. The next that
// is started makes it again.
func removeParent(group string) {
	parent := path.Dir(group)
	if !strings.HasPrefix(path.Base(parent), "brig-pod-") {
		return
	}
	if g, err := cgroup.Load(parent); err == nil {
		g.RemoveEmpty()
	}
}

// Pods are all pods, the newest first, with their containers. Those whose records are damaged are left out, and named in the error.
func (e *Engine) Pods(ctx context.Context) ([]api.Pod, error) {
	e.sweepPods(ctx)
	ids, err := e.podIDs()
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	all, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	var pods []api.Pod
	var errs []error
	for _, podID := range ids {
		p, err := e.readPod(podID)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fillPod(&p, all)
		pods = append(pods, p)
	}
	slices.SortStableFunc(pods, func(x, y api.Pod) int { return y.Created.Compare(x.Created) })
	return pods, errors.Join(errs...)
}

// InspectPod finds a pod by its name or ID.
func (e *Engine) InspectPod(ctx context.Context, name string) (api.Pod, error) {
	p, err := e.pod(name)
	if err != nil {
		return p, err
	}
	all, err := e.List(ctx)
	fillPod(&p, all)
	return p, err
}

// fillPod finds the pod's containers among all, newest first, and what that makes of the pod.
func fillPod(p *api.Pod, all []api.Container) {
	p.Containers = nil
	count := map[api.Status]int{}
	for i := range all {
		if c := &all[len(all)-1-i]; c.Spec.Pod == p.ID {
			p.Containers = append(p.Containers, *c)
			count[c.State.Status]++
		}
	}
	running := count[api.StatusRunning] + count[api.StatusRestarting]
	ended := count[api.StatusExited]
	switch n := len(p.Containers); {
	case count[api.StatusDead] > 0:
		p.Status = api.PodErrored
	case n == 0 || count[api.StatusCreated]+count[api.StatusInitialized] == n:
		p.Status = api.PodCreated
	case count[api.StatusPaused] > 0 && running == 0 && ended == 0:
		p.Status = api.PodPaused
	case running+count[api.StatusPaused] > 0 && ended > 0:
		p.Status = api.PodDegraded
	case running > 0:
		p.Status = api.PodRunning
	case ended == n:
		p.Status = api.PodExited
	default:
		p.Status = api.PodStopped
	}
}

// ActOnPod does something to all containers of a pod that it is about. What fails with one is told, and the others have their turn.
func (e *Engine) ActOnPod(ctx context.Context, name string, what api.PodAction, o api.StopOptions) error {
	p, err := e.InspectPod(ctx, name)
	if err != nil {
		return err
	}
	if what == api.PodRestart {
		if err := e.ActOnPod(ctx, p.ID, api.PodStop, o); err != nil {
			return err
		}
		return e.ActOnPod(ctx, p.ID, api.PodStart, o)
	}
	list := p.Containers
	if what == api.PodStop || what == api.PodKill || what == api.PodPause { // who holds the namespaces goes last
		slices.SortStableFunc(list, func(x, y api.Container) int { return infraOrder(&x) - infraOrder(&y) })
	} else {
		slices.SortStableFunc(list, func(x, y api.Container) int { return infraOrder(&y) - infraOrder(&x) })
	}
	var errs []error
	acted := 0
	for i := range list {
		did, err := e.actOn(ctx, &list[i], what, o)
		if did {
			acted++
		}
		errs = append(errs, err)
	}
	if acted == 0 && (what == api.PodKill || what == api.PodPause || what == api.PodUnpause) {
		return api.Errorf(api.Conflict, "pod %s: no container of it to %s: it is %s", p.Spec.Name, what, strings.ToLower(string(p.Status)))
	}
	return errors.Join(errs...)
}

// infraOrder puts the infra container behind the others.
func infraOrder(c *api.Container) int {
	if c.Spec.Infra {
		return 1
	}
	return 0
}

// actOn does to one container of a pod what is done to the pod, where the container's state is one for that.
func (e *Engine) actOn(ctx context.Context, c *api.Container, what api.PodAction, o api.StopOptions) (did bool, err error) {
	status := c.State.Status
	switch what {
	case api.PodStart:
		if status == api.StatusCreated || status == api.StatusInitialized || status == api.StatusExited {
			_, err = e.Start(ctx, c.ID, nil)
			return true, err
		}
	case api.PodStop:
		if status == api.StatusRunning || status == api.StatusPaused || status == api.StatusRestarting || status == api.StatusInitialized {
			return true, e.Stop(ctx, c.ID, o)
		}
	case api.PodKill:
		if status == api.StatusRunning || status == api.StatusPaused {
			return true, e.Kill(ctx, c.ID, o.Signal)
		}
	case api.PodPause:
		if status == api.StatusRunning {
			return true, e.pause(ctx, c.ID, true)
		}
	case api.PodUnpause:
		if status == api.StatusPaused {
			return true, e.unpause(ctx, c.ID, true)
		}
	}
	return false, nil
}

// RemovePod removes a pod with its containers; without force only where none of them is there but the infra container, or none runs.
func (e *Engine) RemovePod(ctx context.Context, name string, force bool, seconds *int) error {
	l, err := e.lockPods()
	if err != nil {
		return err
	}
	defer l.Release()
	if err := e.sweepPodsHeld(ctx); err != nil {
		return err
	}
	p, err := e.InspectPod(ctx, name)
	if err == nil && !force {
		err = noneRuns(&p)
	}
	if err != nil {
		return err
	}
	if seconds != nil {
		if err := e.ActOnPod(ctx, p.ID, api.PodStop, api.StopOptions{Timeout: seconds}); err != nil {
			return err
		}
	}
	// From now on nobody makes a container in it: who has just done so and does not find the pod any more takes it back.
	aside := e.podAside(p.ID, goneSuffix)
	if err := os.Rename(e.podPath(p.ID), aside); err != nil {
		return err
	}
	all, err := e.List(ctx)
	if err == nil && !force {
		fillPod(&p, all)
		err = noneRuns(&p)
	}
	if err == nil {
		err = e.removePodsContainers(ctx, p.ID)
	}
	if err != nil {
		return errors.Join(err, os.Rename(aside, e.podPath(p.ID)))
	}
	if err := os.Remove(aside); err != nil {
		return err
	}
	return atomicfile.SyncDir(e.podDir())
}

// noneRuns refuses a pod of which a container runs beside that which holds the namespaces.
func noneRuns(p *api.Pod) error {
	for i := range p.Containers {
		c := &p.Containers[i]
		if s := c.State.Status; !c.Spec.Infra && (s == api.StatusRunning || s == api.StatusPaused || s == api.StatusRestarting) {
			return api.Errorf(api.Conflict, "pod %s has containers that run, %s among them: stop it with `brig pod stop %s`, or remove it with `brig pod rm -f %s`", p.Spec.Name, c.Name, p.Spec.Name, p.Spec.Name)
		}
	}
	return nil
}
