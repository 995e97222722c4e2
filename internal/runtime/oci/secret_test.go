package oci

import (
	"os"
	"testing"
)

// TestSecret: a file is copied into memory with the owner and mode asked for, and cannot be written to or led astray by links of the image.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	src := dir + "/s"
	must(t, os.WriteFile(src, []byte("hidden"), 0o600))
	c := newContainer(t)
	c.mount("/run/secrets/s", "none", src, "bind", "ro", OptionSecret+"=5:6:444")
	c.want("cat /run/secrets/s; stat -c ' %u:%g:%a' /run/secrets/s", "hidden 5:6:444")
	// A link of the image at the target leads to a place in the image.
	c = newContainer(t)
	outside := t.TempDir()
	must(t, os.MkdirAll(c.root+"/run", 0o755), os.Symlink(outside, c.root+"/run/secrets"))
	c.mount("/run/secrets/s", "none", src, "bind", "ro", OptionSecret+"=0:0:444")
	c.want("cat "+outside+"/s", "hidden")
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside of the container there is %v", left)
	}
	c = newContainer(t)
	c.userNS()
	c.mount("/s", "none", src, "bind", "idmap", OptionSecret+"=5:6:400")
	c.want("stat -c %u:%g:%a /s", "5:6:400")
	c = newContainer(t)
	c.mount("/s", "none", dir, "bind", OptionSecret+"=0:0:444")
	c.refused("mount /s", "the source is no file")
	c = newContainer(t)
	c.mount("/s", "none", src, "rbind", OptionSecret+"=0:0:444")
	c.refused("config.json: mounts[1].options", "one file")
	for _, bad := range []string{"brig.secret", "brig.secret=", "brig.secret=0:0", "brig.secret=-1:0:444", "brig.secret=0:0:4000", "brig.secret=0:0:9"} {
		if parseSecret(bad) != nil {
			t.Error(bad)
		}
	}
}
