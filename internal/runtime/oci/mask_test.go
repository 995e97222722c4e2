package oci

import (
	"os"
	"testing"
)

// TestMaskedPaths: files are the null device, folders are empty and read-only, what is not there needs no mask; relative paths, links and what lies in
// a volume are masked like the rest.
func TestMaskedPaths(t *testing.T) {
	volume := t.TempDir()
	must(t, os.WriteFile(volume+"/key", []byte("secret"), 0o644))
	c := newContainer(t)
	r := c.root
	must(t, os.MkdirAll(r+"/dir/sub", 0o755), os.WriteFile(r+"/dir/f", []byte("secret"), 0o644), os.WriteFile(r+"/file", []byte("secret"), 0o644),
		os.WriteFile(r+"/rel", []byte("secret"), 0o644), os.WriteFile(r+"/hidden", []byte("secret"), 0o644), os.Symlink("/hidden", r+"/link"), os.MkdirAll(r+"/dir2", 0o755),
		os.WriteFile(r+"/dir2/f", []byte("secret"), 0o644))
	c.mount("/vol", "bind", volume)
	c.spec.Linux.MaskedPaths = []string{"/dir", "/dir/f", "/file", "rel", "/link", "/vol/key", "/missing", "/file/below", "/proc/timer_list", "/proc/acpi", "/dir2", "/proc/keys"}
	c.want("cat /file /rel /hidden /link /vol/key; ls /dir /dir2; touch /dir/x 2>/dev/null || echo ro; stat -c '%F %t:%T' /file /vol/key /proc/keys", "/dir:\n\n/dir2:\nro\n"+
		"character special file 1:3\ncharacter special file 1:3\ncharacter special file 1:3")
	if b, err := os.ReadFile(volume + "/key"); err != nil || string(b) != "secret" {
		t.Errorf("the host's file is %q, %v", b, err)
	}
	c = newContainer(t)
	must(t, os.Symlink("loop", c.root+"/loop"))
	c.spec.Linux.MaskedPaths = []string{"/loop"}
	c.refused("masked path /loop")
}

func TestReadonlyPaths(t *testing.T) {
	volume := tmpfs(t, "")
	c := newContainer(t)
	must(t, os.MkdirAll(c.root+"/dir/sub", 0o755), os.WriteFile(c.root+"/file", nil, 0o666))
	c.mount("/vol", "bind", volume)
	c.mount("/dir/sub", "tmpfs", "tmpfs")
	c.spec.Linux.ReadonlyPaths = []string{"/dir", "file", "/vol", "/missing", "/proc/sys", "/proc/sysrq-trigger"}
	c.want("for f in /dir/x /dir/sub/x /file /vol/x /proc/sys/kernel/hostname /proc/sysrq-trigger; do (: > $f) 2>/dev/null && echo $f; done; touch /here && ls /here", "/here")
}
