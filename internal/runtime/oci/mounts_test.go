package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// options are a mount's options as its own mount table has them.
const showOptions = `grep " %s " /proc/self/mountinfo | head -1`

func optionsOf(c *container, dest string) string {
	c.Helper()
	out := c.run(strings.Replace(showOptions, "%s", dest, 1))
	f := strings.Fields(out)
	if len(f) < 6 {
		c.Fatalf("%s is not mounted: %q", dest, out)
	}
	return f[5] + " | " + f[len(f)-1]
}

// TestMountAttributes: each option of the table is what the mount has then, for a new file system and for a bind mount.
func TestMountAttributes(t *testing.T) {
	for option, want := range map[string]string{
		"ro": "ro,relatime", "rw": "rw,relatime", "nosuid": "rw,nosuid,relatime", "nodev": "rw,nodev,relatime", "noexec": "rw,noexec,relatime",
		"noatime": "rw,noatime", "strictatime": "rw", "relatime": "rw,relatime", "nodiratime": "rw,nodiratime,relatime", "nosymfollow": "rw,relatime,nosymfollow",
		"defaults": "rw,relatime", "norelatime": "rw,relatime", "nostrictatime": "rw,relatime", "silent": "rw,relatime", "atime": "rw,relatime",
		"rro": "ro,relatime", "rnoexec": "rw,noexec,relatime", "rnosymfollow": "rw,relatime,nosymfollow", "rstrictatime": "rw",
	} {
		t.Run(option, func(t *testing.T) {
			for _, kind := range []string{"tmpfs", "bind"} {
				c := newContainer(t)
				c.mount("/m", kind, tmpfs(t, ""), option)
				if got, _, _ := strings.Cut(optionsOf(c, "/m"), " | "); got != want {
					t.Errorf("%s: %s, want %s", kind, got, want)
				}
			}
		})
	}
}

// TestSuperblockOptions: what belongs to the file system gets there, by fsconfig(2) or mount(2).
func TestSuperblockOptions(t *testing.T) {
	c := newContainer(t)
	c.mount("/m", "tmpfs", "tmpfs", "sync", "dirsync", "lazytime", "size=64k", "nosuid")
	if got := optionsOf(c, "/m"); !strings.Contains(got, "rw,nosuid,relatime | rw,sync,dirsync,lazytime,size=64k") {
		t.Error(got)
	}
	c = newContainer(t)
	c.mount("/m", "tmpfs", "tmpfs", "iversion", "sync", "size=64k", "noexec", "ro", "tmpcopyup")
	must(t, os.MkdirAll(c.root+"/m/sub", 0o755))
	if got := optionsOf(c, "/m"); !strings.Contains(got, "ro,noexec,relatime | rw,sync,size=64k") {
		t.Error(got)
	}
	// an overlay with more lower folders than fsconfig(2) has room for
	base := t.TempDir()
	var lower []string
	for _, n := range "abcdef" {
		d := filepath.Join(base, strings.Repeat(string(n), 60))
		must(t, os.Mkdir(d, 0o755), os.WriteFile(d+"/"+string(n), nil, 0o644))
		lower = append(lower, d)
	}
	c = newContainer(t)
	c.mount("/first", "tmpfs", "tmpfs")
	c.mount("/m", "overlay", "overlay", "lowerdir="+strings.Join(lower, ":"), "nodev")
	c.want("ls /m; ls -d /first; grep -c rootfs /proc/self/mountinfo", "a\nb\nc\nd\ne\nf\n/first\n1")
	c = newContainer(t)
	c.mount("/m", "tmpfs", "tmpfs", "nonsense=1")
	c.refused("/m", "option nonsense=1", "Unknown parameter")
}

// TestRecursiveAttributes: with r an option reaches the mounts below, without it does not.
func TestRecursiveAttributes(t *testing.T) {
	src := tmpfs(t, "")
	must(t, os.Mkdir(src+"/below", 0o755), unix.Mount("tmpfs", src+"/below", "tmpfs", 0, ""))
	const tell = "for f in /m/x /m/below/x; do touch $f 2>/dev/null && echo rw || echo ro; done"
	for option, want := range map[string]string{"ro": "ro\nrw", "rro": "ro\nro", "rw": "rw\nrw"} {
		c := newContainer(t)
		c.mount("/m", "none", src, "rbind", option)
		c.want(tell, want)
	}
	c := newContainer(t)
	c.mount("/m", "none", src, "bind")
	c.want("ls /m/below | wc -l", "0")
}

// TestTargets: where mounts go, and what is made for them.
func TestTargets(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(src+"/file", []byte("from the host"), 0o644), os.Mkdir(src+"/dir", 0o755), os.WriteFile(src+"/dir/in", nil, 0o644))
	c := newContainer(t)
	r := c.root
	must(t, os.MkdirAll(r+"/real", 0o755), os.Symlink("/real", r+"/abs"), os.Symlink("../../../../real", r+"/up"), os.Symlink("/gone/away", r+"/dangling"),
		os.MkdirAll(r+"/etc", 0o755), os.Symlink("../run/resolv.conf", r+"/etc/resolv.conf"), os.WriteFile(r+"/plain", []byte("image"), 0o644))
	c.mount("relative/dir", "bind", src+"/dir")
	c.mount("/new/deep/file", "bind", src+"/file")
	c.mount("/abs/one", "bind", src+"/dir")
	c.mount("/up/two", "bind", src+"/dir")
	c.mount("/dangling/three", "bind", src+"/dir")
	c.mount("/etc/resolv.conf", "bind", src+"/file")
	c.mount("/plain", "bind", src+"/file", "ro")
	c.mount("/plain", "bind", "file-of-the-bundle")
	must(t, os.WriteFile(c.req.Bundle+"/file-of-the-bundle", []byte("of the bundle"), 0o644))
	c.want("ls /relative/dir /real/one /real/two /gone/away/three; cat /new/deep/file; echo; cat /run/resolv.conf; echo; cat /plain; echo; readlink /etc/resolv.conf",
		"/gone/away/three:\nin\n\n/real/one:\nin\n\n/real/two:\nin\n\n/relative/dir:\nin\nfrom the host\nfrom the host\nof the bundle\n../run/resolv.conf")
	if b, _ := os.ReadFile(r + "/plain"); string(b) != "image" {
		t.Errorf("the image's file is %q", b)
	}
	c = newContainer(t)
	c.mount("/bin/busybox", "tmpfs", "tmpfs")
	c.refused("/bin/busybox", "a folder cannot be mounted on what is a file")
	c = newContainer(t)
	c.mount("/bin", "bind", src+"/file")
	c.refused("/bin", "a file cannot be mounted on what is a folder")
	c = newContainer(t)
	c.mount("/x", "bind", src+"/missing")
	c.refused("source " + src + "/missing does not exist on the host")
	for _, special := range []string{"/sys", "/dev", "/proc"} {
		c = newContainer(t)
		must(t, os.Symlink("/bin", c.root+special))
		if special != "/proc" {
			c.mount(special, "tmpfs", "tmpfs")
		}
		c.refused(special + " is a symbolic link in the image")
	}
}

// TestTargetBelowVolume: a folder for a mount inside of a volume is made in the volume, and a volume's link never leads to the host.
func TestTargetBelowVolume(t *testing.T) {
	volume, outside := t.TempDir(), t.TempDir()
	must(t, os.Symlink(outside, volume+"/link"), os.Symlink("../../../../../.."+outside, volume+"/up"))
	c := newContainer(t)
	c.mount("/vol", "bind", volume)
	c.mount("/vol/sub", "tmpfs", "tmpfs")
	c.mount("/vol/link/a", "tmpfs", "tmpfs")
	c.mount("/vol/up/b/file", "bind", c.root+"/bin/busybox")
	c.run("true")
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made on the host: %v, %v", left, err)
	}
	if _, err := os.Stat(volume + "/sub"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.root, outside, "a")); err != nil {
		t.Error("the link was not followed inside of the root: ", err)
	}
}

// TestRemount: flags of what is mounted become those of the remount; the host's file systems are never changed.
func TestRemount(t *testing.T) {
	src := tmpfs(t, "")
	c := newContainer(t)
	c.mount("/m", "tmpfs", "tmpfs", "nosuid", "noatime", "size=64k")
	c.mount("/m", "", "", "remount", "nodev", "size=128k")
	if got := optionsOf(c, "/m"); !strings.Contains(got, "rw,nodev,noatime | ") || !strings.Contains(got, "size=128k") {
		t.Error(got)
	}
	c = newContainer(t)
	c.mount("/m", "bind", src, "noexec")
	c.mount("/m", "", "", "remount", "bind", "ro")
	if got := optionsOf(c, "/m"); !strings.HasPrefix(got, "ro,relatime | rw") {
		t.Error(got)
	}
	c = newContainer(t)
	c.mount("/", "", "", "bind", "remount", "ro")
	c.want("touch /x 2>/dev/null || echo refused", "refused")
	c = newContainer(t)
	c.mount("/proc", "proc", "proc", "remount", "ro", "hidepid=invisible")
	if got := optionsOf(c, "/proc"); !strings.HasPrefix(got, "ro,") || !strings.Contains(got, "hidepid=invisible") {
		t.Error(got)
	}
	c = newContainer(t)
	c.mount("/m", "bind", src)
	c.mount("/m", "tmpfs", "", "remount", "ro")
	c.refused("that file system (tmpfs) is the host's")
	must(t, os.WriteFile(src+"/still-writable", nil, 0o644))
	c = newContainer(t)
	c.mount("/bin", "", "", "remount", "bind", "ro")
	c.refused("nothing is mounted there")
}

// TestCopyUpOption: tmpcopyup fills a tmpfs, read-only or not, and a tmpfs has the mode of the folder that it covers.
func TestCopyUpOption(t *testing.T) {
	for _, mode := range []string{"rw", "ro"} {
		c := newContainer(t)
		must(t, os.MkdirAll(c.root+"/m/d", 0o755), os.WriteFile(c.root+"/m/d/f", []byte("x"), 0o640), os.Chmod(c.root+"/m", 0o711))
		c.mount("/m", "tmpfs", "tmpfs", "tmpcopyup", mode)
		c.want("cat /m/d/f; echo; stat -c %a /m /m/d/f; touch /m/y 2>/dev/null && echo rw || echo ro", "x\n711\n640\n"+mode)
	}
	c := newContainer(t)
	must(t, os.Mkdir(c.root+"/a", 0o750), os.Mkdir(c.root+"/b", 0o750))
	c.mount("/a", "tmpfs", "tmpfs")
	c.mount("/b", "tmpfs", "tmpfs", "mode=1700")
	c.mount("/c", "tmpfs", "tmpfs")
	c.want("stat -c %a /a /b /c", "750\n1700\n1777")
}

// TestProc: several, with options of their own, and mounts below.
func TestProc(t *testing.T) {
	c := newContainer(t)
	c.spec.Mounts[0].Options = []string{"nosuid", "noexec", "nodev", "ro"}
	c.mount("/other/proc", "proc", "proc", "subset=pid", "hidepid=ptraceable")
	c.mount("/proc/sys", "bind", "/proc/sys", "ro", "nosuid")
	c.mount("/proc/uptime", "bind", "uptime")
	must(t, os.WriteFile(c.req.Bundle+"/uptime", []byte("fake"), 0o644))
	c.want("cat /proc/uptime; echo; ls -d /other/proc/1 /other/proc/sys 2>&1; readlink /other/proc/self | grep -c .; grep proc /proc/self/mountinfo | while read a b c d p o r; do [ $p != /proc/uptime ] || o=${o%%,*}; echo $p $o; done", // its other flags are those of its file system
		"fake\nls: /other/proc/sys: No such file or directory\n/other/proc/1\n1\n/proc ro,nosuid,nodev,noexec,relatime\n/other/proc rw,relatime\n/proc/sys ro,nosuid,relatime\n/proc/uptime rw")
	c = newContainer(t)
	c.spec.Mounts = []specs.Mount{{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind"}}}
	c.want("ls -d /proc/sys", "/proc/sys")
	for _, src := range []string{"/tmp", "/proc/sys"} {
		c = newContainer(t)
		c.spec.Mounts = []specs.Mount{{Destination: "/proc", Type: "bind", Source: src}}
		c.refused("only a proc file system")
	}
}

// TestNoProc: a container may do without.
func TestNoProc(t *testing.T) {
	c := newContainer(t)
	c.spec.Mounts = nil
	c.want("ls /", "bin\ndev")
}

// TestCgroupMount: the container sees its own groups as the roots.
func TestCgroupMount(t *testing.T) {
	pids := "/sys/fs/cgroup/pids"
	var fs unix.Statfs_t
	if must(t, unix.Statfs("/sys/fs/cgroup", &fs)); fs.Type == unix.CGROUP2_SUPER_MAGIC {
		pids = "/sys/fs/cgroup"
	}
	for _, tc := range []struct{ kind, mode, script, want string }{
		{"cgroup", "ro", "mkdir " + pids + "/x 2>/dev/null || echo ro; mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro; ls -d " + pids + "/cgroup.procs", "ro\nro\n" + pids + "/cgroup.procs"},
		{"cgroup", "rw", "cat " + pids + "/cgroup.procs | head -1", "1"},
		{"cgroup2", "ro", "cat /sys/fs/cgroup/cgroup.procs | head -1; mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro", "1\nro"},
	} {
		for _, own := range []bool{true, false} {
			c := newContainer(t)
			if !own {
				c.spec.Linux.Namespaces = c.spec.Linux.Namespaces[:5]
			}
			c.mount("/sys", "sysfs", "sysfs", "ro")
			c.mount("/sys/fs/cgroup", tc.kind, "cgroup", "nosuid", "noexec", "nodev", "relatime", tc.mode)
			c.want(tc.script, tc.want)
		}
	}
	c := newContainer(t)
	c.mount("/dev/mqueue", "mqueue", "mqueue", "nosuid")
	c.mount("/sys", "sysfs", "sysfs")
	c.want("touch /dev/mqueue/q && ls /dev/mqueue; ls /sys/class/net", "q\nlo")
}

// TestPropagation: of mounts as they say, of the root as linux.rootfsPropagation says, and nothing reaches the host but through a shared
// mount in a shared root.
func TestPropagation(t *testing.T) {
	field := func(c *container, dest string) string { // the optional fields
		out := c.run(strings.Replace(showOptions, "%s", dest, 1))
		_, rest, _ := strings.Cut(out, strings.Fields(out)[5])
		rest, _, _ = strings.Cut(rest, " - ")
		return strings.TrimRight(strings.TrimSpace(rest), "0123456789")
	}
	for value, want := range map[string]string{
		"": "", "private": "", "rprivate": "", "slave": "", "rslave": "", "shared": "shared:", "rshared": "shared:", "unbindable": "unbindable", "runbindable": "unbindable",
	} {
		c := newContainer(t)
		c.spec.Linux.RootfsPropagation = value
		c.spec.Linux.ReadonlyPaths = []string{"/bin"}
		if got := field(c, "/"); got != want {
			t.Errorf("rootfsPropagation %q: %q, want %q", value, got, want)
		}
	}
	shared := tmpfs(t, "")
	must(t, unix.Mount("", shared, "", unix.MS_SHARED, ""), os.Mkdir(shared+"/sub", 0o755))
	for option, want := range map[string]string{"private": "", "slave": "master:", "unbindable": "unbindable", "rslave": "master:"} {
		c := newContainer(t)
		c.mount("/m", "bind", shared, option)
		if got := field(c, "/m"); got != want {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
	before := len(strings.Split(tool(t, "cat", "/proc/self/mountinfo"), "\n"))
	for root, want := range map[string]string{"rslave": "0", "shared": "1"} {
		c := newContainer(t)
		c.spec.Linux.RootfsPropagation = root
		c.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}, Effective: []string{"CAP_SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"}}
		c.mount("/m", "bind", shared, "rshared")
		c.run("mount -t tmpfs tmpfs /m/sub")
		after := tool(t, "grep", "-c", "", "/proc/self/mountinfo")
		if (after == tool(t, "sh", "-c", "echo $(($0 + 1))", itoa(before))) != (want == "1") {
			t.Errorf("root %s: %s mounts after, %d before", root, after, before)
		}
		unix.Unmount(shared+"/sub", unix.MNT_DETACH)
	}
}

// TestNoPivot: the root is entered all the same, and the host's procfs and sysfs are gone.
func TestNoPivot(t *testing.T) {
	c := newContainer(t)
	c.req.NoPivot = true
	c.mount("/d", "tmpfs", "tmpfs")
	c.want("ls -d /d /proc/1 /etc 2>&1; grep -c ' sysfs \\| proc ' /proc/self/mountinfo", "ls: /etc: No such file or directory\n/d\n/proc/1\n1")
}
