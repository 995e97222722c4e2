package oci

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
	"brig/internal/runtime/users"
)

// AnnotationPasswd has the runtime add a line to the container's /etc/passwd, and one to /etc/group, as [PasswdEntries] makes them, unless there are lines of that name or number. Where
// the image has no such file none is made.
const AnnotationPasswd = "org.brig.passwd"

// PasswdEntries are the two lines of a user: passwd(5), group(5). The folder may be what an image says.
func PasswdEntries(name string, uid, gid uint32, gecos, home string) string {
	if strings.ContainsAny(home, ":\n") {
		home = "/"
	}
	return fmt.Sprintf("%s:*:%d:%d:%s:%s:/bin/sh\n%s:x:%d:%s", name, uid, gid, gecos, home, name, gid, name)
}

// addUser does so, before anything is mounted in the root.
func (b *builder) addUser() error {
	passwd, group, _ := strings.Cut(b.spec.Annotations[AnnotationPasswd], "\n")
	if passwd == "" {
		return nil
	}
	if err := addEntry(b.root, "etc/passwd", passwd); err != nil {
		return err
	}
	return addEntry(b.root, "etc/group", group)
}

func addEntry(root int, name, line string) error {
	file, err := users.Open(root, name, true)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil || len(data) == 0 {
		return err
	}
	want := strings.Split(line, ":")
	for l := range strings.Lines(string(data)) {
		if have := strings.Split(l, ":"); len(have) > 2 && (have[0] == want[0] || have[2] == want[2]) {
			return nil
		}
	}
	if data[len(data)-1] != '\n' {
		line = "\n" + line
	}
	fd, err := mount.OpenInRoot(root, name, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), "/"+name)
	_, err = out.WriteString(line + "\n")
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}
