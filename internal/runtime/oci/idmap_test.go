package oci

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestIDMap: on ext4 (the test's folder) and tmpfs, files belong to whom the mapping says, both ways.
func TestIDMap(t *testing.T) {
	uids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 100}, {ContainerID: 1000, HostID: 0, Size: 1}}
	gids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 6000, Size: 100}, {ContainerID: 1000, HostID: 0, Size: 1}}
	for name, src := range map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t, "")} {
		must(t, os.WriteFile(src+"/a", nil, 0o644), os.Chown(src+"/a", 3, 4), os.WriteFile(src+"/b", nil, 0o644), os.Chown(src+"/b", 200, 200), os.Chown(src, 1000, 1000), os.Chmod(src, 0o755))
		c := newContainer(t)
		c.mount("/m", "bind", src)
		m := &c.spec.Mounts[len(c.spec.Mounts)-1]
		m.UIDMappings, m.GIDMappings = uids, gids
		out, err := c.try("stat -c '%u:%g' /m/a /m/b; touch /m/new && stat -c '%u:%g' /m/new")
		if err != nil && strings.Contains(err.Error(), "does not support that") {
			t.Logf("%s: %v", name, err)
			continue
		}
		if want := "5003:6004\n65534:65534\n0:0"; err != nil || strings.TrimSpace(out) != want {
			t.Errorf("%s: %q, %v; want %q", name, out, err, want)
		}
		var st unix.Stat_t
		if err := unix.Stat(src+"/new", &st); err != nil || st.Uid != 1000 || st.Gid != 1000 {
			t.Errorf("%s: what root made in the container belongs to %d:%d on the host, %v", name, st.Uid, st.Gid, err)
		}
	}
}

// TestIDMapRecursion: idmap maps one mount, ridmap those below too.
func TestIDMapRecursion(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 100}}
	src := tmpfs(t, "")
	must(t, os.Mkdir(src+"/below", 0o755), unix.Mount("tmpfs", src+"/below", "tmpfs", 0, ""))
	probe := newContainer(t)
	probe.mount("/m", "none", src, "bind", "idmap")
	probe.spec.Mounts[len(probe.spec.Mounts)-1].UIDMappings, probe.spec.Mounts[len(probe.spec.Mounts)-1].GIDMappings = ids, ids
	if _, err := probe.try("true"); err != nil && strings.Contains(err.Error(), "does not support that") {
		t.Skip("needs ID-mapped mounts of tmpfs, which came with Linux 6.3")
	}
	for option, want := range map[string]string{"idmap": "5000\n0", "ridmap": "5000\n5000"} {
		c := newContainer(t)
		c.mount("/m", "none", src, "rbind", option, "nosuid")
		m := &c.spec.Mounts[len(c.spec.Mounts)-1]
		m.UIDMappings, m.GIDMappings = ids, ids
		c.want("stat -c %u /m /m/below", want)
	}
	c := newContainer(t)
	c.mount("/m", "tmpfs", "tmpfs", "idmap", "iversion")
	m := &c.spec.Mounts[len(c.spec.Mounts)-1]
	m.UIDMappings, m.GIDMappings = ids, ids
	c.want("stat -c %u /m; grep -c iversion /proc/self/mountinfo; ls -d /bin", "5000\n0\n/bin")
	c = newContainer(t)
	c.mount("/m", "bind", "/proc/sys", "idmap")
	m = &c.spec.Mounts[len(c.spec.Mounts)-1]
	m.UIDMappings, m.GIDMappings = ids, ids
	c.refused("mount /m", "file system proc", "does not support that")
}
