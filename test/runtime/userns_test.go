package runtime

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mappedRoot = 100000 // who a container's root is outside

// mapUsers gives the container a user namespace, and a root file system that belongs to its root.
func (w *world) mapUsers(s *specs.Spec) {
	w.t.Helper()
	root := w.dir + "/mapped"
	if _, err := os.Stat(root); err != nil {
		if err := makeRoot(root); err != nil {
			w.t.Fatal(err)
		}
		err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return unix.Lchown(path, mappedRoot, mappedRoot)
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	s.Root.Path = root
	w.bindDevices(s)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
}

// bindDevices shows the container the host's device nodes, one by one.
func (w *world) bindDevices(s *specs.Spec) {
	mounts := []specs.Mount{s.Mounts[0]}
	for _, f := range devices {
		mounts = append(mounts, specs.Mount{Type: "bind", Source: "/dev/" + f, Destination: "/dev/" + f, Options: []string{"bind"}})
	}
	s.Mounts = append(mounts, s.Mounts[2:]...)
}

var _ = syscall.SIGKILL
