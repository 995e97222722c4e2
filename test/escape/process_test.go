package escape

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// awaitLine waits until the attacker has said something, and returns the lines with part when it is done.
func awaitLine(o *oci, file, what, part string) string {
	o.Helper()
	for range 1000 {
		if lines(file, what) != "" {
			return lines(file, part)
		}
		time.Sleep(10 * time.Millisecond)
	}
	said, _ := os.ReadFile(file)
	o.Fatalf("the attacker did not come to %q: %s", what, said)
	return ""
}

// The runtime's file in the hands of a container's root who may trace, while an exec is on its way.
func TestRuntimeProgramIsReadOnly(t *testing.T) {
	against(t, "exe", func(o *oci) string {
		bundle := o.bundle(func(_ string, s *specs.Spec) {
			grant(s, "CAP_SYS_PTRACE")
			s.Process.Args = []string{"/probe", "exe"}
		})
		id, out := o.background(bundle)
		exec := o.hold(id, "true")
		awaitLine(o, out, "foreign", "")
		exec.Process.Kill() // from now on nobody runs the file
		time.Sleep(3 * time.Second)
		return lines(out, "writable mount") + lines(out, "HOLE")
	})
}

// A container that joins the PID namespace of an attacker.
func TestRuntimeProgramIsReadOnlyBesideOthers(t *testing.T) {
	against(t, "exe", func(o *oci) string {
		id, out := o.background(o.bundle(func(_ string, s *specs.Spec) {
			grant(s, "CAP_SYS_PTRACE")
			s.Process.Args = []string{"/probe", "exe"}
		}))
		o.create(o.bundle(func(_ string, s *specs.Spec) { s.Linux.Namespaces[0].Path = fmt.Sprintf("/proc/%d/ns/pid", o.pid(id)) }))
		awaitLine(o, out, "foreign", "")
		return lines(out, "writable mount") + lines(out, "HOLE")
	})
}

// An exec's process, before it executes, in a container whose root has every capability of its own user namespace.
func TestExecCannotBeLookedInto(t *testing.T) {
	against(t, "dumpable", func(o *oci) string {
		id, out := o.background(o.bundle(func(_ string, s *specs.Spec) {
			inUserNS(s)
			grant(s)
			s.Process.Args = []string{"/probe", "look"}
		}))
		o.hold(id, "true")
		return o.looked(out)
	})
}

// looked returns what the attacker could look into. It must have been refused something, or there was nothing to see.
func (o *oci) looked(out string) string {
	o.Helper()
	found := awaitLine(o, out, "done", "HOLE")
	if found == "" && lines(out, "refused") == "" {
		o.Fatal("the attacker saw no runtime")
	}
	return found
}

// The first process of a container that waits for its start, from an exec beside it.
func TestCreatedContainerCannotBeLookedInto(t *testing.T) {
	against(t, "exe", func(o *oci) string {
		id := o.create(o.bundle(func(_ string, s *specs.Spec) {
			inUserNS(s)
			grant(s)
		}))
		out := filepath.Join(o.TempDir(), "out")
		f, err := os.Create(out)
		if err != nil {
			o.Fatal(err)
		}
		defer f.Close()
		cmd := o.command("exec", id, "/probe", "look", "first")
		cmd.Stdout, cmd.Stderr = f, f
		if err := cmd.Run(); err != nil {
			o.Fatal(err, lines(out, ""))
		}
		return o.looked(out)
	})
}

// Two containers of one pod, which share a user and a PID namespace: one waits for its start, the other has every capability there.
func TestPodCannotBeLookedInto(t *testing.T) {
	against(t, "exe", func(o *oci) string {
		id, out := o.background(o.bundle(func(_ string, s *specs.Spec) {
			inUserNS(s)
			grant(s)
			s.Process.Args = []string{"/probe", "look"}
		}))
		o.create(o.bundle(func(_ string, s *specs.Spec) {
			inUserNS(s)
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
			for i := range s.Linux.Namespaces {
				if n := &s.Linux.Namespaces[i]; n.Type == "user" || n.Type == "pid" {
					n.Path = fmt.Sprintf("/proc/%d/ns/%s", o.pid(id), n.Type)
				}
			}
		}))
		return o.looked(out)
	})
}

// An exec with CAP_SYS_PTRACE into a container that waits with the runtime's own program is refused.
func TestExecBesideTheWaitingRuntime(t *testing.T) {
	against(t, "exe", func(o *oci) string {
		id := o.create(o.bundle(nil))
		if o.weak != "" { // its defence is refusing; the handle is there for the taking
			return strings.TrimSpace(o.run("exec", "--cap", "CAP_SYS_PTRACE", id, "ls", "-l", "/proc/1/exe").out)
		}
		if r := o.run("exec", id, "true"); r.code != 0 {
			o.Fatal(r)
		}
		return o.run("exec", "--cap", "CAP_SYS_PTRACE", id, "ls", "-l", "/proc/1/exe").out
	})
}

func (o *oci) create(bundle string) string {
	o.Helper()
	id := o.id()
	cmd := o.command("create", "--bundle", bundle, id)
	if err := cmd.Run(); err != nil {
		o.Fatal(o.run("run", "--bundle", bundle, o.id()))
	}
	return id
}

func (o *oci) pid(id string) (pid int) {
	o.Helper()
	_, after, _ := strings.Cut(o.must("state", id), `"pid": `)
	if fmt.Sscanf(after, "%d", &pid); pid == 0 {
		o.Fatal("no pid")
	}
	return pid
}

// Descriptors of whoever calls the runtime, and of the runtime's own.
func TestDescriptorsAreClosed(t *testing.T) {
	against(t, "fds", func(o *oci) string {
		bundle := o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"/probe", "fds"} })
		id, _ := o.background(o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"sleep", "1000"} }))
		held, err := os.Open("/")
		if err != nil {
			o.Fatal(err)
		}
		defer held.Close()
		found := ""
		for _, args := range [][]string{{"run", "--bundle", bundle, o.id()}, {"exec", id, "/probe", "fds"}} {
			cmd := o.command(args...)
			cmd.ExtraFiles = []*os.File{held, held, nil, held}
			if r := o.finish(cmd); r.out != "0 1 2 " {
				found += fmt.Sprintf("%s: %s; ", args[0], r)
			}
		}
		return found
	})
}

// A working directory that leads out of the root through a descriptor.
func TestWorkingDirectoryStaysInside(t *testing.T) {
	attack := func(o *oci) (found string) {
		bundle := o.bundle(func(_ string, s *specs.Spec) { shell(s, "ls -d ../../../../../../../var/lib/dpkg 2>/dev/null") })
		id, _ := o.background(o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"sleep", "1000"} }))
		var s specs.Spec
		readSpec(o, bundle, &s)
		last := 24
		if seconds(0) > 0 {
			last = 1023
		}
		for fd := 3; fd <= last; fd++ {
			s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
			o.write(bundle, &s)
			if r := o.once(bundle); r.out != "" {
				found += s.Process.Cwd + ": run: " + r.out
			}
			if r := o.run("exec", "--cwd", s.Process.Cwd, id, "ls", "-d", "../../../../../../../var/lib/dpkg"); r.out != "" {
				found += s.Process.Cwd + ": exec: " + r.out
			}
		}
		return found
	}
	if _, err := os.Stat("/var/lib/dpkg"); err != nil {
		t.Skip("the host has no /var/lib/dpkg to find")
	}
	against(t, "fds,cwd", attack)
	t.Run("each alone is enough", func(t *testing.T) {
		needWeakened(t)
		for _, weak := range []string{"fds", "cwd"} {
			if got := attack(newOCI(t, weak)); got != "" {
				t.Errorf("without %s: %s", weak, got)
			}
		}
	})
}

func TestInheritableIsEmpty(t *testing.T) {
	against(t, "inheritable", func(o *oci) (found string) {
		const none = "CapInh:\t0000000000000000"
		look := "while read line; do case $line in CapInh*) echo \"$line\";; esac; done </proc/self/status"
		id, _ := o.background(o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"sleep", "1000"} }))
		for _, r := range []result{
			o.once(o.bundle(func(_ string, s *specs.Spec) { shell(s, look) })), o.run("exec", id, "sh", "-c", look),
			o.run("exec", "--cap", "CAP_SYS_ADMIN", id, "sh", "-c", look), o.run("exec", "--user", "1000", id, "sh", "-c", look),
		} {
			if strings.TrimSpace(r.out) != none {
				found += r.String()
			}
		}
		return found
	})
}

// A passwd file that is a fifo, for a runtime that looks for the user's home folder in it.
func TestPasswdFifo(t *testing.T) {
	against(t, "passwd", func(o *oci) string {
		r := o.once(o.bundle(func(dir string, s *specs.Spec) {
			s.Process.Env = s.Process.Env[:1]
			for _, name := range []string{"passwd", "group"} {
				if err := unix.Mkfifo(filepath.Join(dir, "rootfs/etc", name), 0o666); err != nil {
					o.Fatal(err)
				}
			}
		}))
		if r.hung {
			return r.String()
		}
		if r.code != 0 {
			o.Error(r)
		}
		return ""
	})
}

// Users that overflow to root, or leave the process root.
func TestUserOverflow(t *testing.T) {
	against(t, "ids", func(o *oci) (found string) {
		id, _ := o.background(o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"sleep", "1000"} }))
		bundle := o.bundle(func(_ string, s *specs.Spec) { s.Process.Args = []string{"id", "-u"} })
		config := filepath.Join(bundle, "config.json")
		text, err := os.ReadFile(config)
		if err != nil || !strings.Contains(string(text), `"uid":0`) {
			o.Fatal(err, string(text))
		}
		for _, who := range []string{"4294967295", "4294967296", "-1", "18446744073709551616", "2.5", `"0x0"`, `" 0"`, "0x0", "1e30"} {
			os.WriteFile(config, []byte(strings.Replace(string(text), `"uid":0`, `"uid":`+who, 1)), 0o644)
			if r := o.once(bundle); r.code == 0 || r.out != "" {
				found += fmt.Sprintf("config.json, uid %s: %s; ", who, r)
			}
		}
		for _, who := range []string{"4294967295", "4294967296", "2147483648", "-1", "0x0", " 0", "+0", "", "0:-1", "0:4294967295", "root", "1:", "18446744073709551616"} {
			if who == "" {
				continue // as if the flag were not given, as in runc
			}
			if r := o.run("exec", "--user", who, id, "id", "-u"); r.code == 0 || r.out != "" {
				found += fmt.Sprintf("exec --user %q: %s; ", who, r)
			}
		}
		if got := o.must("exec", "--user", "2147483647", id, "id", "-u"); got != "2147483647\n" {
			o.Errorf("the greatest user is %q", got)
		}
		return found
	})
}

// Devices that are not in the list, made by a root that may make them.
func TestDevicesOnlyFromTheList(t *testing.T) {
	against(t, "devices", func(o *oci) string {
		r := o.once(o.bundle(func(_ string, s *specs.Spec) {
			major, minor := int64(1), int64(8)
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"})
			shell(s, `set -- c 1 11 c 10 229 c 10 237 c 1 1 b 7 0 b 8 0 b 259 0
				while [ $# -gt 0 ]; do mknod /tmp/d $1 $2 $3 2>/dev/null && (: </tmp/d) 2>/dev/null && echo "open $1 $2:$3"; rm -f /tmp/d; shift 3; done
				head -c 1 /dev/random >/dev/null && echo control; for d in /dev/*; do [ -b $d ] && echo "block $d"; done; true`)
		}))
		if !strings.Contains(r.out, "control") {
			o.Fatal(r)
		}
		return strings.ReplaceAll(r.out, "control\n", "")
	})
}

// The calls that the kernel's bugs were reached by: 2022-0847, 2022-0185, 2020-14386, 2026-31431.
func TestDefaultFilterClosesTheKernel(t *testing.T) {
	against(t, "seccomp", func(o *oci) (found string) {
		edit := func(args ...string) func(string, *specs.Spec) {
			return func(_ string, s *specs.Spec) {
				s.Annotations = map[string]string{"org.brig.seccomp": "default"}
				s.Process.Args = args
			}
		}
		id, _ := o.background(o.bundle(edit("sleep", "1000")))
		for _, r := range []result{o.once(o.bundle(edit("/probe", "syscalls"))), o.run("exec", id, "/probe", "syscalls")} {
			if strings.Count(r.out, "\n") != 8 {
				o.Error(r)
			}
			for line := range strings.Lines(r.out) {
				name, errno, _ := strings.Cut(strings.TrimSpace(line), " ")
				blocked := errno == "EPERM" || errno == "ENOSYS" || name == "AF_ALG" && errno == "EAFNOSUPPORT"
				if name == "control" && blocked {
					o.Error(r)
				} else if name != "control" && !blocked {
					found += line
				}
			}
		}
		return found
	})
}

// A weakness that is known, and runc's as well: root of a container without a user namespace of its own, with CAP_SYS_PTRACE, may trace an exec's process
// before that has given up what the container is not to have. README.md says why it is there; when this fails, it is gone.
func TestKnownTracerReachesExec(t *testing.T) {
	o := newOCI(t, "")
	id, out := o.background(o.bundle(func(_ string, s *specs.Spec) {
		grant(s, "CAP_SYS_PTRACE")
		s.Process.Args = []string{"/probe", "look"}
	}))
	o.hold(id, "true")
	if got := awaitLine(o, out, "done", "HOLE"); !strings.Contains(got, "HOLE ptrace") {
		t.Errorf("the runtime's process cannot be traced any more: %q: take the weakness out of README.md", got)
	}
}
