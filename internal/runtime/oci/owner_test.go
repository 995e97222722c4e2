package oci

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/userns"
)

// TestMapOwner: the owner's files are the user's, all others keep their numbers, and no two ids share one, whatever the numbers.
func TestMapOwner(t *testing.T) {
	inNS := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 10}, {ContainerID: 10, HostID: 7, Size: 1}}
	for _, base := range [][]specs.LinuxIDMapping{identity(), inNS} {
		for _, owner := range []uint32{0, 1, 5, 9, 10, 11, 1000, unnamed - 1} {
			for _, id := range []uint32{0, 1, 5, 9, 10} {
				list, err := mapOwner(base, owner, id, len(base) > 1)
				if err != nil {
					t.Fatal(err)
				}
				if err := userns.Validate("map", list); err != nil {
					t.Errorf("owner %d, user %d: %v: %v", owner, id, err, list)
				}
				want, _ := hostID(base, id)
				if got, ok := hostID(list, owner); !ok || got != want {
					t.Errorf("owner %d, user %d: the owner's files are %d's, %t: %v", owner, id, got, ok, list)
				}
				for _, other := range []uint32{2, 6, 8, 10, 12} {
					if other == owner || other == id {
						continue
					}
					got, ok := hostID(list, other)
					if seen, there := hostID(base, other); ok != there || got != seen {
						t.Errorf("owner %d, user %d: files of %d are %d's: %v", owner, id, other, got, list)
					}
				}
			}
		}
	}
	if _, err := mapOwner(inNS, 1, 50, true); err == nil {
		t.Error("a user that is not in the user namespace was mapped")
	}
}

// TestOwnerMap: on a disk, on tmpfs and below it; for root, another user and a user by name; read-only too.
func TestOwnerMap(t *testing.T) {
	for name, src := range map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t, "")} {
		must(t, os.Mkdir(src+"/below", 0o755), unix.Mount("tmpfs", src+"/below", "tmpfs", 0, "mode=755"))
		t.Cleanup(func() { unix.Unmount(src+"/below", unix.MNT_DETACH) })
		must(t, os.WriteFile(src+"/other", nil, 0o644), os.Chown(src+"/other", 33, 33), os.WriteFile(src+"/roots", nil, 0o644), os.Symlink("/etc/passwd", src+"/link"))
		for _, path := range []string{src, src + "/below", src + "/link"} {
			must(t, os.Lchown(path, 1000, 1001))
		}
		for _, uid := range []uint32{0, 7, 1000} {
			c := newContainer(t)
			c.spec.Process.User.UID, c.spec.Process.User.GID = uid, uid
			c.mount("/m", "none", src, "rbind", "ridmap", OptionOwner)
			file := "/m/" + strconv.Itoa(int(uid))
			me := strconv.Itoa(int(uid))
			out, err := c.try("stat -c %u:%g /m /m/below /m/link /m/other; touch " + file + " /m/below" + file[2:] + " && stat -c %u:%g " + file)
			if err != nil && strings.Contains(err.Error(), "does not support that") {
				t.Skip("this kernel or file system maps no owners: ", err)
			}
			own := me + ":" + me + "\n"
			if want := own + own + own + "33:33\n" + me + ":" + me; err != nil || strings.TrimSpace(out) != want {
				t.Errorf("%s, user %d: %q, %v; want %q", name, uid, out, err, want)
			}
			for _, f := range []string{src + file[2:], src + "/below" + file[2:]} {
				var st unix.Stat_t
				if err := unix.Stat(f, &st); err != nil || st.Uid != 1000 || st.Gid != 1001 {
					t.Errorf("%s, user %d: what it made belongs to %d:%d on the host, %v", name, uid, st.Uid, st.Gid, err)
				}
			}
		}
		c := newContainer(t)
		c.mount("/m", "none", src, "rbind", "rro", "ridmap", OptionOwner+"=user:12:13")
		c.want("stat -c %u:%g /m; touch /m/x 2>/dev/null || echo refused", "12:13\nrefused")
		// A default that does not fit is passed over.
		c = newContainer(t)
		c.mount("/m", "none", src, "bind", "idmap", OptionOwner+"=caller:1005")
		c.want("stat -c %u:%g /m", "1000:1001")
		c = newContainer(t)
		c.mount("/m", "none", src, "bind", "idmap", OptionOwner+"=caller:1000")
		c.want("stat -c %u:%g /m", "0:0")
		c = newContainer(t)
		must(t, os.MkdirAll(c.root+"/etc", 0o755), os.WriteFile(c.root+"/etc/passwd", []byte("root:x:0:0::/:\nnode:x:1000:1000::/:\n"), 0o644))
		c.mount("/m", "none", src, "bind", "idmap", OptionOwner+"=caller:1000")
		c.want("stat -c %u:%g /m", "1000:1001")
	}
	c := newContainer(t)
	c.mount("/m", "none", "/proc/sys", "rbind", "ridmap", OptionOwner+"=caller:0")
	c.spec.Process.User.UID = 0
	c.want("stat -c %u /m", "0")
	c = newContainer(t)
	c.spec.Process.User.UID = 7
	c.mount("/m", "none", t.TempDir(), "bind", "idmap", OptionOwner)
	c.refused("mount /m", "the source belongs to root")
	c = newContainer(t)
	c.mount("/m", "tmpfs", "tmpfs", OptionOwner)
	c.refused("config.json: mounts[1]", "is for a bind mount")
}

// TestOwnerMapInUserNS: the owner's files are the user's there too, by the container's numbers.
func TestOwnerMapInUserNS(t *testing.T) {
	src := t.TempDir()
	must(t, os.Chown(src, 1000, 1000), os.WriteFile(src+"/other", nil, 0o644), os.Chown(src+"/other", 3, 4))
	c := newContainer(t)
	c.userNS()
	c.spec.Process.User.UID, c.spec.Process.User.GID = 5, 5
	c.mount("/m", "bind", src, "idmap", OptionOwner)
	out, err := c.try("touch /m/new; stat -c %u:%g /m /m/new /m/other")
	if err != nil && strings.Contains(err.Error(), "does not support that") {
		t.Skip("this kernel or file system maps no owners: ", err)
	}
	if err != nil || strings.TrimSpace(out) != "5:5\n5:5\n3:4" {
		t.Errorf("%q, %v", out, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(src+"/new", &st); err != nil || st.Uid != 1000 || st.Gid != 1000 {
		t.Errorf("what it made belongs to %d:%d on the host, %v", st.Uid, st.Gid, err)
	}
}

func TestParseOwner(t *testing.T) {
	for option, want := range map[string]*ownerOption{
		"owneridmap": {caller: -1}, "owneridmap=user:www-data:www-data": {user: "www-data:www-data", caller: -1}, "owneridmap=caller:1000": {caller: 1000},
		"owneridmap=": nil, "owneridmap=user:": nil, "owneridmap=caller:-1": nil, "owneridmap=caller:4294967296": nil, "owneridmapper": nil, "idmap": nil,
	} {
		got := parseOwner(option)
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %v, want %v", option, got, want)
		}
	}
	if !slices.Equal(identity(), []specs.LinuxIDMapping{{Size: 4294967294}}) {
		t.Error(identity())
	}
}
