package escape

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func bind(from, to string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: from, Destination: to, Options: append([]string{"rbind"}, options...)}
}

// folder makes a folder of the host with the files in it.
func (o *oci) folder(files ...string) string {
	o.Helper()
	dir := o.TempDir()
	os.Chmod(dir, 0o755)
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("host's "+f+"\n"), 0o644); err != nil {
			o.Fatal(err)
		}
	}
	return dir
}

// race runs containers of a bundle for some seconds and returns their output.
func (o *oci) race(bundle string, done func() bool) (out string, started int) {
	o.Helper()
	for end := time.Now().Add(seconds(3 * time.Second)); time.Now().Before(end) && !done(); {
		r := o.once(bundle)
		if r.hung {
			o.Error(r)
		}
		if r.code == 0 {
			started++
		}
		out += r.out
	}
	return out, started
}

// Folders of a shared volume and of the root file system that are exchanged for links to the host while containers are made that have mounts, a
// working directory and a terminal there: nothing is made in the host's folder.
func TestSwappedTargets(t *testing.T) {
	against(t, "links", func(o *oci) string {
		host, volume, other := o.folder(), o.folder(), o.folder("file")
		bundle := o.bundle(func(dir string, s *specs.Spec) {
			for _, at := range []string{volume, filepath.Join(dir, "rootfs")} {
				os.Mkdir(filepath.Join(at, "a"), 0o755)
				if err := os.Symlink(host, filepath.Join(at, "b")); err != nil {
					o.Fatal(err)
				}
			}
			file := filepath.Join(other, "file")
			s.Mounts = append(s.Mounts,
				bind(volume, "/vol"), bind(file, "/vol/a/file"), bind(other, "/vol/a/dir"), specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/vol/a/tmp"},
				bind(file, "/a/file"), bind(other, "/a/deep/dir"))
			s.Process.Cwd = "/vol/a/cwd"
			s.Process.Terminal = true
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/vol/a/file")
		})
		for _, at := range []string{volume, filepath.Join(bundle, "rootfs")} {
			o.process("swap", filepath.Join(at, "a"), filepath.Join(at, "b"))
		}
		made := func() string {
			names, err := filepath.Glob(host + "/*")
			if err != nil {
				o.Fatal(err)
			}
			return strings.Join(names, " ")
		}
		_, started := o.race(bundle, func() bool { return made() != "" })
		if started == 0 && o.weak == "" {
			o.Error("no container started, so nothing was tried")
		}
		o.Logf("%d containers started", started)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), host) {
			o.Errorf("mounts on the host: %s, %v", mounts, err)
		}
		return made()
	})
}

// /proc, /sys and /dev exchanged for links to folders of the image while containers are made: masks and read-only paths are on the kernel's files.
func TestMasksHold(t *testing.T) {
	against(t, "mask,places", func(o *oci) string {
		bundle := o.bundle(func(dir string, s *specs.Spec) {
			rootfs := filepath.Join(dir, "rootfs")
			for _, name := range []string{"proc", "sys", "dev"} {
				fake := filepath.Join(rootfs, "fake-"+name)
				os.Mkdir(fake, 0o755)
				os.WriteFile(filepath.Join(fake, "version"), []byte("a fake\n"), 0o644)
				if err := os.Symlink("fake-"+name, filepath.Join(rootfs, "link-"+name)); err != nil {
					o.Fatal(err)
				}
			}
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/version")
			shell(s, `n=0; while [ $n -lt 2 ]; do for p in /proc /link-proc /fake-proc; do
				case "$(head -c 5 $p/version 2>/dev/null)" in Linux) echo "unmasked";; esac
				(: >$p/sys/kernel/domainname) 2>/dev/null && echo "writable"; done; n=$((n+1)); done`)
		})
		for _, name := range []string{"proc", "sys", "dev"} {
			at := filepath.Join(bundle, "rootfs")
			o.process("swap", filepath.Join(at, name), filepath.Join(at, "link-"+name))
		}
		var out string
		started := 0
		end := time.Now().Add(seconds(3 * time.Second))
		for last := end.Add(time.Minute); (time.Now().Before(end) || started == 0 && time.Now().Before(last)) && !strings.Contains(out, "unmasked"); {
			r := o.once(bundle)
			if r.hung {
				o.Error(r)
			}
			if r.code == 0 {
				started++
			}
			out += r.out
		}
		if started == 0 {
			o.Error("no container started, so nothing was tried")
		}
		o.Logf("%d containers started", started)
		if strings.Contains(out, "unmasked") || strings.Contains(out, "writable") {
			return out
		}
		return ""
	})
}

// A mask whose source is what is at /dev/null of the container.
func TestMaskSource(t *testing.T) {
	against(t, "mask", func(o *oci) (found string) {
		r := o.once(o.bundle(func(dir string, s *specs.Spec) {
			if err := os.WriteFile(filepath.Join(dir, "rootfs/etc/secret"), []byte("secret"), 0o644); err != nil {
				o.Fatal(err)
			}
			s.Mounts = append(s.Mounts, bind(filepath.Join(o.folder("planted"), "planted"), "/dev/null"))
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/secret")
			shell(s, "stat -c %F:%t:%T /etc/secret; cat /etc/secret")
		}))
		if r.out != "character special file:1:3\n" {
			found = r.String()
		}
		return found
	})
}

// A root file system with /proc, /sys or /dev as a link.
func TestLinkedPlaces(t *testing.T) {
	against(t, "places", func(o *oci) (found string) {
		for _, name := range []string{"proc", "sys", "dev"} {
			for _, to := range []string{"fake", "/fake", "/", "../../../../../../../../tmp"} {
				r := o.once(o.bundle(func(dir string, s *specs.Spec) {
					rootfs := filepath.Join(dir, "rootfs")
					os.Mkdir(filepath.Join(rootfs, "fake"), 0o755)
					os.Remove(filepath.Join(rootfs, name))
					if err := os.Symlink(to, filepath.Join(rootfs, name)); err != nil {
						o.Fatal(err)
					}
				}))
				if r.code == 0 || r.err == "" {
					found += fmt.Sprintf("/%s -> %s: %s; ", name, to, r)
				}
			}
		}
		return found
	})
}

// A volume over /proc.
func TestVolumeOverProc(t *testing.T) {
	against(t, "places", func(o *oci) (found string) {
		dir := o.folder()
		for _, m := range []specs.Mount{
			bind(dir, "/proc"), bind(dir, "/proc/"), bind(dir, "/tmp/../proc"), bind(dir, "//proc/."), {Type: "tmpfs", Source: "tmpfs", Destination: "/proc"},
		} {
			if r := o.once(o.bundle(func(_ string, s *specs.Spec) { s.Mounts = append(s.Mounts, m) })); r.code == 0 {
				found += fmt.Sprintf("%s at %s; ", m.Type, m.Destination)
			}
		}
		return found
	})
}

// A destination with dots, and one below a link to the host.
func TestVolumesStayInside(t *testing.T) {
	against(t, "links", func(o *oci) (found string) {
		host := o.folder()
		for _, dest := range []string{"/../escaped", "/vol/../../../escaped", "/vol/out/escaped", "/vol/out/deep/escaped"} {
			bundle := o.bundle(func(dir string, s *specs.Spec) {
				if err := os.Symlink(host, filepath.Join(dir, "rootfs/vol/out")); err != nil {
					o.Fatal(err)
				}
				s.Mounts = append(s.Mounts, bind(dir, dest))
			})
			if r := o.once(bundle); r.code != 0 && o.weak == "" && strings.Contains(dest, "..") {
				o.Error(r)
			}
			for _, at := range []string{host, filepath.Join(host, "deep"), bundle, filepath.Dir(bundle)} {
				if _, err := os.Lstat(filepath.Join(at, "escaped")); err == nil {
					found += dest + " was made outside of the root; "
					os.Remove(filepath.Join(at, "escaped"))
				}
			}
		}
		return found
	})
}

// Volumes that are filled from an image: one with a link to the host, one that is not empty.
func TestCopyUp(t *testing.T) {
	against(t, "copyup", func(o *oci) (found string) {
		host, volume := o.folder("secret"), o.folder("kept")
		r := o.once(o.bundle(func(dir string, s *specs.Spec) {
			vol := filepath.Join(dir, "rootfs/vol")
			os.WriteFile(filepath.Join(vol, "kept"), []byte("image's\n"), 0o644)
			if err := os.Symlink(filepath.Join(host, "secret"), filepath.Join(vol, "link")); err != nil {
				o.Fatal(err)
			}
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/vol", Options: []string{"tmpcopyup"}})
			shell(s, "cat /vol/kept; cat /vol/link 2>/dev/null; true")
		}))
		if r.out != "image's\n" {
			found = r.String()
		}
		o.once(o.bundle(func(dir string, s *specs.Spec) {
			os.WriteFile(filepath.Join(dir, "rootfs/vol/kept"), []byte("image's\n"), 0o644)
			s.Mounts = append(s.Mounts, bind(volume, "/vol", "copyup"))
		}))
		if data, err := os.ReadFile(filepath.Join(volume, "kept")); err != nil || string(data) != "host's kept\n" {
			found += fmt.Sprintf("the volume was written over: %q, %v", data, err)
		}
		return found
	})
}

// A /proc of the host that is not one: what the runtime writes would go where the attacker says. It makes one of its own, or refuses where a user
// namespace does not let it.
func TestProcOfTheHostIsFake(t *testing.T) {
	against(t, "procfs", func(o *oci) (found string) {
		for _, users := range []bool{false, true} {
			bundle := o.bundle(func(_ string, s *specs.Spec) {
				if users {
					inUserNS(s)
				}
				adj := 100
				s.Process.OOMScoreAdj = &adj
			})
			cmd := o.command("run", "--bundle", bundle, o.id())
			cmd.Args = append([]string{probe, "fakeproc"}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
			cmd.Path = probe
			r := o.finish(cmd)
			if o.weak == "" && r.code != 0 && !(users && strings.Contains(r.err, "/proc cannot be trusted")) {
				o.Error(r)
			}
			found += r.out
		}
		return found
	})
}

// A file over a sysctl of the container's own.
func TestSysctlIsRedirected(t *testing.T) {
	against(t, "crossing", func(o *oci) string {
		dir := o.folder("file")
		r := o.once(o.bundle(func(_ string, s *specs.Spec) {
			s.Mounts = append(s.Mounts, bind(filepath.Join(dir, "file"), "/proc/sys/net/ipv4/ip_forward"))
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}))
		data, err := os.ReadFile(filepath.Join(dir, "file"))
		if err != nil || string(data) != "host's file\n" {
			return fmt.Sprintf("%q, %v, %s", data, err, r)
		}
		return ""
	})
}
