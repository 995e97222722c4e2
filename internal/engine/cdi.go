package engine

import (
	"context"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/rootless"
)

// cdiDirs are where devices are looked for, by CDI's specification; what is in a later one goes before what is in an earlier one.
func cdiDirs(s *api.ContainerSpec) []string {
	if len(s.CDIDirs) > 0 {
		return s.CDIDirs
	}
	return []string{"/etc/cdi", "/var/run/cdi"}
}

// isCDI reports whether a device is one of the Container Device Interface, vendor.com/class=name, instead of a path.
func isCDI(d *api.DeviceSpec) bool { return d.Target == "" && !strings.HasPrefix(d.Source, "/") }

// deviceEdits asks brig-image, which knows YAML, what a container's CDI devices change; nil: it has none. It is asked at each start: drivers write the files anew.
func (e *Engine) deviceEdits(s *api.ContainerSpec) (*api.DeviceEdits, error) {
	r := api.TransferRequest{Op: "cdi", Dirs: cdiDirs(s)}
	for i := range s.Devices {
		if isCDI(&s.Devices[i]) {
			r.Refs = append(r.Refs, s.Devices[i].Source)
		}
	}
	if len(r.Refs) == 0 {
		return nil, nil
	}
	rep, err := e.Transfer(context.Background(), r, api.Streams{})
	return rep.Devices, err
}

// addCDI puts a container's CDI devices into its configuration.
func (e *Engine) addCDI(o *specs.Spec, s *api.ContainerSpec) error {
	edits, err := e.deviceEdits(s)
	if err != nil || edits == nil {
		return err
	}
	o.Process.Env = mergeEnv(o.Process.Env, edits.Env)
	o.Process.User.AdditionalGids = append(o.Process.User.AdditionalGids, edits.GIDs...)
	for i := range edits.Nodes {
		n := &edits.Nodes[i]
		dev, err := device(n.Source, n.Target)
		if err != nil {
			return err
		}
		if n.Mode != nil {
			mode := os.FileMode(*n.Mode)
			dev.FileMode = &mode
		}
		if n.UID != nil {
			dev.UID = n.UID
		}
		if n.GID != nil {
			dev.GID = n.GID
		}
		if rootless.Active() || s.UserNS.Mode != "" { // as in rootlessDevices
			o.Mounts = append(o.Mounts, specs.Mount{Type: "bind", Source: n.Source, Destination: n.Target, Options: []string{"bind", "rprivate", "nosuid", "noexec"}})
		} else {
			o.Linux.Devices = append(o.Linux.Devices, dev)
		}
		o.Linux.Resources.Devices = append(o.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: n.Permissions})
	}
	for i := range edits.Mounts {
		if !exists(edits.Mounts[i].Source) {
			return api.Errorf(api.InvalidArgument, "CDI device: mount source %s does not exist on the host", edits.Mounts[i].Source)
		}
	}
	o.Mounts = append(o.Mounts, edits.Mounts...)
	h := &edits.Hooks
	//nolint:staticcheck // Prestart is deprecated, and still written by vendors
	if len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer) > 0 {
		o.Hooks = h
	}
	return nil
}
