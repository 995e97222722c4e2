package oci

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// AnnotationLookUp asks, as Request.LookUp does, for a command that the container's process will execute itself in a tree below the root: LookUpValue.
const AnnotationLookUp = "org.brig.lookup"

// LookUpValue is the value of AnnotationLookUp: the tree, an absolute path that no link leads to, and what is executed there.
func LookUpValue(tree string, p *specs.Process) string {
	list := ""
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list = v
		}
	}
	return strings.Join([]string{tree, p.Cwd, list, p.Args[0]}, "\x00")
}

// lookUpBelow is lookUp of what AnnotationLookUp says.
func (b *builder) lookUpBelow(value string) error {
	f := strings.SplitN(value, "\x00", 4)
	if len(f) < 4 {
		return api.Errorf(api.InvalidArgument, "config.json: annotation %s: %q is no value of it", AnnotationLookUp, value)
	}
	root, err := b.openUnfollowed(f[0])
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return lookUp(root, &specs.Process{Cwd: f[1], Env: []string{"PATH=" + f[2]}, Args: f[3:]})
}

// lookUp says of a command that cannot be executed so, before the container is created: engines learn from `create` what they tell their user. What may come to
// be until the command is executed, by a hook in the container, or is another process's, below /proc, only execve(2) knows.
func (b *builder) lookUp() error {
	if h := b.spec.Hooks; h != nil && len(h.StartContainer) > 0 {
		return nil
	}
	return lookUp(b.root, b.spec.Process)
}

func lookUp(root int, p *specs.Process) error {
	names := commandPaths(p.Args[0], p.Env)
	failed := unix.ENOENT
	for _, name := range names {
		if !path.IsAbs(name) {
			name = p.Cwd + "/" + name
		}
		if name = path.Clean(name); strings.HasPrefix(name, "/proc/") {
			return nil
		}
		switch e := executable(root, name); e {
		case 0:
			return nil
		case unix.ENOENT, unix.ENOTDIR:
		default:
			failed = e
		}
	}
	return childError(p.Args[0], stageExec, failed)
}

// executable looks whether the file is one that somebody may execute.
func executable(root int, name string) syscall.Errno {
	fd, err := mount.OpenInRoot(root, name, unix.O_PATH, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return unix.ENOENT
		}
		return 0 // execve(2) tells
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return 0
}

// commandPaths lists the files to try for a command: itself when it has a slash, else one in each folder of the container's PATH.
func commandPaths(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	list := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list = v
		}
	}
	var names []string
	for dir := range strings.SplitSeq(list, ":") {
		if dir == "" {
			dir = "."
		}
		names = append(names, dir+"/"+command)
	}
	return names
}
