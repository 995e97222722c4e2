package oci

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestUserNSDevices: in a user namespace the host's devices are there in place of those that may not be made.
func TestUserNSDevices(t *testing.T) {
	c := newContainer(t)
	c.userNS()
	ownDev(c)
	uid := uint32(5)
	c.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, UID: &uid}, {Path: "/dev/fifo", Type: "p", UID: &uid}}
	c.spec.Linux.MaskedPaths = []string{"/bin/secret"}
	must(t, os.WriteFile(c.root+"/bin/secret", []byte("x"), 0o644))
	c.want(showDevices+"/dev/null /dev/full /dev/fifo /bin/secret; echo x > /dev/null; head -c 4 /dev/zero | od",
		"/dev/null character special file 1:3 666 65534:65534\n/dev/full character special file 1:7 666 65534:65534\n/dev/fifo fifo 0:0 666 5:0\n"+
			"/bin/secret character special file 1:3 666 65534:65534\n0000000 000000 000000\n0000004")
	c = newContainer(t)
	c.userNS()
	ownDev(c)
	c.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/nothing-there", Type: "c", Major: 1, Minor: 7}}
	c.refused("linux.devices: /dev/nothing-there", "mknod is not permitted")
}

// TestUserNSMounts: flags of the source that the host set stay, and cannot be taken back; idmap takes the container's mappings.
func TestUserNSMounts(t *testing.T) {
	src := tmpfs(t, "")
	must(t, unix.Mount("", src, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, ""),
		os.WriteFile(src+"/f", nil, 0o644), os.Chown(src+"/f", 3, 4))
	c := newContainer(t)
	c.userNS()
	c.mount("/m", "bind", src, "ro")
	if got := optionsOf(c, "/m"); !strings.HasPrefix(got, "ro,nosuid,nodev,noexec,noatime | ") {
		t.Error(got)
	}
	c = newContainer(t)
	c.userNS()
	c.mount("/m", "bind", src, "idmap")
	if out, err := c.try("stat -c %u:%g /m/f"); err != nil && strings.Contains(err.Error(), "does not support that") {
		t.Log(err) // tmpfs, before Linux 6.3
	} else if err != nil || strings.TrimSpace(out) != "3:4" {
		t.Errorf("%q, %v", out, err)
	}
	c = newContainer(t)
	c.userNS()
	c.mount("/m", "bind", src)
	c.want("stat -c %u:%g /m/f", "65534:65534")
	c = newContainer(t)
	c.userNS()
	c.mount("/m", "tmpfs", "tmpfs", "idmap")
	c.refused("config.json: mounts[1].options", "only a bind mount can be ID-mapped there")
	c = newContainer(t)
	c.userNS()
	c.mount("/m", "tmpfs", "tmpfs", "iversion", "size=64k")
	c.mount("/other", "proc", "proc", "subset=pid")
	c.mount("/m", "", "", "remount", "bind", "ro")
	if got := optionsOf(c, "/m"); !strings.HasPrefix(got, "ro,relatime | ") || !strings.Contains(got, "size=64k") {
		t.Error(got)
	}
}

// TestUserNSNoPivot: the host's procfs and sysfs are covered where they cannot be unmounted.
func TestUserNSNoPivot(t *testing.T) {
	c := newContainer(t)
	c.userNS()
	c.req.NoPivot = true
	c.want("ls -d /proc/1 /etc 2>&1", "ls: /etc: No such file or directory\n/proc/1")
}

// TestUserNSNetDevices: interfaces of the host move into a network namespace of the user namespace too.
func TestUserNSNetDevices(t *testing.T) {
	c := newContainer(t)
	c.userNS()
	veth(t, "u0", "u0peer")
	tool(t, "ip", "address", "add", "10.6.0.2/24", "dev", "u0")
	c.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"u0": {Name: "eth7"}}
	if out := c.run("ip address show eth7"); !strings.Contains(out, "inet 10.6.0.2/24") {
		t.Error(out)
	}
}
