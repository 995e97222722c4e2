package oci

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
)

// lookUp says of a command that cannot be executed so, before the container is created: engines learn from `create` what they tell their user. What may come to
// be until the command is executed, by a hook in the container, or is another process's, below /proc, only execve(2) knows.
func (b *builder) lookUp() error {
	p := b.spec.Process
	if h := b.spec.Hooks; h != nil && len(h.StartContainer) > 0 {
		return nil
	}
	names := commandPaths(p.Args[0], p.Env)
	failed := unix.ENOENT
	for _, name := range names {
		if !path.IsAbs(name) {
			name = p.Cwd + "/" + name
		}
		if name = path.Clean(name); strings.HasPrefix(name, "/proc/") {
			return nil
		}
		switch e := b.executable(name); e {
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
func (b *builder) executable(name string) syscall.Errno {
	fd, err := mount.OpenInRoot(b.root, name, unix.O_PATH, 0)
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
