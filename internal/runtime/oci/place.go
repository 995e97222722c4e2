package oci

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/resctrl"
	"brig/internal/kernel/systemd"
)

// place is where a container's processes are counted and limited.
type place struct {
	group *cgroup.Group // nil: the caller may make none
	own   *cgroup.Group // the part of group that the container rules, nil: none
	scope *systemd.Scope
	rdt   *resctrl.Group

	rootless bool
}

// beginPlace is makePlace on another thread, while the caller makes namespaces, which are as long in the making. The function that it returns waits, and
// may be called again.
func beginPlace(req *Request) func() (*place, error) {
	if req.NoCgroup {
		return func() (*place, error) { return &place{}, nil }
	}
	if req.Systemd || req.Rootless || req.Spec.Linux.IntelRdt != nil {
		p, err := makePlace(req)
		return func() (*place, error) { return p, err }
	}
	layout, err := cgroup.Detect() // before the process's mounts, which /proc/self/mountinfo tells, may be the container's
	if err != nil {
		return func() (*place, error) { return nil, err }
	}
	p := &place{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if p.group, err = layout.Create(req.CgroupPath(), limits(req.Spec.Linux.Resources)); err != nil {
			p = nil
		} else if err = p.entrust(req.Spec); err != nil {
			p.remove()
			p = nil
		}
	}()
	return func() (*place, error) {
		<-done
		return p, err
	}
}

// makePlace makes it. On error nothing is left of it.
func makePlace(req *Request) (*place, error) {
	p := &place{rootless: req.Rootless}
	var err error
	switch r := limits(req.Spec.Linux.Resources); {
	case req.Systemd:
		p.scope, err = systemd.Create(&systemd.Request{
			CgroupsPath: req.Spec.Linux.CgroupsPath, ID: req.ID, Resources: r, Annotations: req.Spec.Annotations, Rootless: req.Rootless,
		})
		if err == nil {
			p.group = p.scope.Group
		}
	default:
		detect := cgroup.Detect
		if req.Rootless {
			detect = cgroup.DetectRootless
		}
		layout, derr := detect()
		if derr != nil {
			return nil, derr
		}
		if req.Rootless {
			p.group, err = layout.CreateRootless(req.CgroupPath(), req.Spec.Linux.CgroupsPath != "", r)
		} else {
			p.group, err = layout.Create(req.CgroupPath(), r)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := p.entrust(req.Spec); err != nil {
		p.remove()
		return nil, err
	}
	if rdt := req.Spec.Linux.IntelRdt; rdt != nil {
		tree, err := resctrl.Find()
		if err == nil {
			p.rdt, err = tree.Create(rdt, req.ID)
		}
		if err != nil {
			p.remove()
			return nil, err
		}
	}
	return p, nil
}

// entrust makes the part of the group that the container rules, where the configuration asks for it.
func (p *place) entrust(s *specs.Spec) (err error) {
	if !Entrusted(s.Annotations) {
		return nil
	}
	if p.group == nil {
		return api.Errorf(api.Unsupported, "annotation %s: the container has no control group", AnnotationCgroup)
	}
	root := 0
	for _, m := range s.Linux.UIDMappings {
		if m.ContainerID == 0 {
			root = int(m.HostID)
		}
	}
	p.own, err = p.group.Entrust(root)
	return err
}

// inside is the group as the container's processes are in it and see it.
func (p *place) inside() *cgroup.Group {
	if p.own != nil {
		return p.own
	}
	return p.group
}

// settle puts the process in, as far as it does not go by itself, and lets go of what held the place for it.
func (p *place) settle(pid int) error {
	if p.scope != nil {
		p.scope.Release()
	}
	if p.rdt != nil {
		return p.rdt.Join(pid)
	}
	return nil
}

// remove takes it back, with whoever is still in it.
func (p *place) remove() {
	if p.group != nil {
		if !p.group.RemoveEmpty() {
			p.group.Remove()
		}
	}
	if p.scope != nil {
		p.scope.Release()
		systemd.Stop(p.scope.Unit, p.rootless) //nolint:errcheck // best effort: the error that led here is told
	}
	if p.rdt != nil {
		p.rdt.Remove()
	}
}

// limits adds the devices that every container has behind the rules of its own, as runc does.
func limits(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || len(r.Devices) == 0 {
		return r
	}
	if weak.Devices {
		with := *r
		with.Devices = nil
		return &with
	}
	if last := r.Devices[len(r.Devices)-1]; last.Allow && last.Type == "" && last.Major == nil && last.Minor == nil {
		return r // everything is allowed
	}
	with := *r
	with.Devices = append(slices.Clone(r.Devices), cgroup.DefaultDevices()[1:]...) // without the rule that denies all
	return &with
}
