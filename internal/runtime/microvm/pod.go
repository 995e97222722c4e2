package microvm

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/runtime/boxed"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/runtime/oci"
)

// What the box of a member may use: it has the monitor's program, and a process for each exec. The member's own limits are set in the machine.
const (
	memberMemory = 128 << 20 // bytes
	memberPids   = 1024
)

// membersPlace gives the box of a pod's infra container the folder in which the members' trees appear, in the tree that the machine sees. The folder is the host's: who is in the machine
// must not write to it.
func membersPlace(box *specs.Spec, p *boxed.Pod) {
	box.Mounts = append(box.Mounts, specs.Mount{
		Type: "bind", Source: p.Dir, Destination: wire.MembersDir, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec", "rprivate", oci.OptionBeneath + boxed.RootPath},
	})
}

// member completes the box of a container that runs in the machine of another. Its tree is shown in that other's box, whose server of files serves it.
func member(box *specs.Spec, p *boxed.Pod) error {
	if err := os.Mkdir(filepath.Join(p.Dir, p.Member), 0o700); err != nil {
		return err
	}
	box.Annotations[oci.AnnotationShow] = oci.ShowValue(boxed.RootPath, p.Mounts, boxed.RootPath+wire.MembersDir+"/"+p.Member)
	memory, pids := int64(memberMemory), int64(memberPids)
	r := specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}}
	if box.Linux.Resources != nil {
		r.Devices = box.Linux.Resources.Devices
	}
	box.Linux.Resources = &r
	box.Process.Capabilities = &specs.LinuxCapabilities{}
	box.Linux.Seccomp = filter()
	box.Annotations[oci.AnnotationTells] = "1"
	return nil
}
