package engine

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/record"
	"brig/internal/runtime/boxed"
)

// A pod of a boxed level is one virtual machine, or one Sentry: that of its infra container. The others run in it, each with a box of its own for its keeper, its tree and its streams.

// podBoxDir is the folder that the boxes of a pod share; infra is the ID of its infra container.
func (e *Engine) podBoxDir(infra string) string { return filepath.Join(e.state, "pod", infra) }

// infraOf is the container whose machine or Sentry a container runs in; empty: it has its own, or needs none.
func infraOf(s *api.ContainerSpec) string {
	if s.Pod == "" || s.Infra || rootIn(s.Isolation) == "" {
		return ""
	}
	infra, _ := strings.CutPrefix(s.Network.Mode, api.NamespaceContainer)
	return infra
}

// levelOfPod gives a container the level of its pod, and refuses another.
func (e *Engine) levelOfPod(s *api.ContainerSpec) error {
	if s.Pod == "" || s.Infra {
		return nil
	}
	p, err := e.pod(s.Pod)
	if err != nil {
		return err
	}
	if p.Infra == "" {
		return nil // it shares nothing
	}
	level, asked := p.Spec.Isolation, s.Isolation
	if level == "" {
		level = api.IsolationContainer
	}
	if asked != "" && asked != level && !s.IsolationUsual {
		return api.Errorf(api.InvalidArgument, "pod %s is of isolation level %s, and so are its containers: leave out --isolation %s, or give it to `brig pod create`", p.Spec.Name, level, asked)
	}
	s.Isolation = p.Spec.Isolation
	return nil
}

// checkPodLevel refuses what a pod's level cannot do.
func checkPodLevel(s *api.PodSpec) error {
	if s.Isolation == api.IsolationChroot {
		return api.Errorf(api.Unsupported, "isolation level %s does not know pods: it has no namespaces to share", s.Isolation)
	}
	if rootIn(s.Isolation) == "" {
		if s.Limits.Memory != 0 || s.Limits.NanoCPUs != 0 {
			return api.Errorf(api.Unsupported, "--memory and --cpus are the size of a pod that is a virtual machine or a Sentry, and this one is of level container: give them to `brig run`, or make it with --isolation")
		}
		return nil
	}
	if s.NoInfra {
		return api.Errorf(api.InvalidArgument, "a pod of isolation level %s is its infra container's: leave out --infra=false", s.Isolation)
	}
	if !shares(&api.Pod{Spec: *s}, api.ShareNet) {
		return api.Errorf(api.Unsupported, "isolation level %s does not know pods that do not share their network: it is that of the one kernel: add net to --share", s.Isolation)
	}
	if s.Isolation == api.IsolationGVisor && !(shares(&api.Pod{Spec: *s}, api.ShareIPC) && shares(&api.Pod{Spec: *s}, api.ShareUTS)) {
		return api.Errorf(api.Unsupported, "isolation level %s does not know pods that do not share ipc and uts: its Sentry has one of each for all containers: add them to --share", s.Isolation)
	}
	return nil
}

// outOfPod is a spec without what its pod has given it, for who looks at what the user has.
func (e *Engine) outOfPod(s *api.ContainerSpec) *api.ContainerSpec {
	infra := infraOf(s)
	if infra == "" {
		return s
	}
	own := *s
	for _, n := range shared(&own) {
		if *n.mode == api.NamespaceContainer+infra {
			*n.mode = ""
		}
	}
	return &own
}

// addPod says, in the configuration of a container of a boxed level, what its place in its pod is.
func (e *Engine) addPod(o *specs.Spec, c *api.Container, join *joined) error {
	if c.Spec.Pod == "" || rootIn(c.Spec.Isolation) == "" {
		return nil
	}
	p := boxed.Pod{Dir: e.podBoxDir(c.ID)}
	if infra := infraOf(&c.Spec); infra != "" {
		p = boxed.Pod{Dir: e.podBoxDir(infra), Member: boxed.MemberName(c.ID, id.New()[:12]), Mounts: join.box}
	} else if !c.Spec.Infra { // its pod shares nothing
		return nil
	}
	data, err := record.Marshal(p)
	o.Annotations[boxed.AnnotationPod] = string(data)
	return err
}

// leavePod takes away what is left of a container's run in its pod. spec may be a record's that is gone: then the infra container's end does it.
func (e *Engine) leavePod(cid string, s *api.ContainerSpec) error {
	switch infra := infraOf(s); {
	case infra != "":
		return boxed.RemoveMember(e.podBoxDir(infra), cid)
	case s.Infra && rootIn(s.Isolation) != "":
		return boxed.RemovePod(e.podBoxDir(cid))
	}
	return nil
}

// apart refuses to make one container of a pod stand still whose processes are among those of the whole pod.
func apart(c *api.Container, withPod bool) error {
	if withPod || infraOf(&c.Spec) == "" {
		return nil
	}
	return api.Errorf(api.Unsupported, "container %s is in a pod of isolation level %s, which stands still as a whole: use `brig pod pause` and `brig pod unpause`", c.Name, c.Spec.Isolation)
}

// machineRefuses is what a virtual machine that is a pod cannot do for one of its containers.
func machineRefuses() []refusal {
	return []refusal{{
		"--cpuset-cpus, --cpuset-mems, --memory-swap, --memory-swappiness, --oom-kill-disable, --blkio-weight, --device-read-bps and the like in a pod",
		"the machine's kernel keeps the limits of a pod's containers, which has no swap, and processors and disks of its own",
		func(s *api.ContainerSpec) bool {
			l := &s.Limits
			return s.Pod != "" && !s.Infra && (l.CPUs != "" || l.MemoryNodes != "" || l.MemorySwap != 0 || l.MemorySwappiness != nil || l.OOMKillDisable || l.BlkioWeight != 0 ||
				len(l.DeviceWeights)+len(l.DeviceRates)+len(s.CgroupConf) > 0)
		},
	}}
}
