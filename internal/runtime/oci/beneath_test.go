package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// TestBeneath mounts into a tree that an attacker has made, below the root: neither an absolute link in it nor one with dots leads out of it, and where the tree itself
// should be there is no link.
func TestBeneath(t *testing.T) {
	c := newContainer(t)
	tree, own := filepath.Join(c.root, "tree"), filepath.Join(c.root, "own")
	must(t, os.Mkdir(tree, 0o755), os.Mkdir(own, 0o755), os.Symlink("/own", tree+"/abs"), os.Symlink("../../own", tree+"/dots"), os.Symlink("own", c.root+"/link"))
	source := t.TempDir()
	must(t, os.WriteFile(source+"/f", []byte("here"), 0o644))
	bind := func(dest, beneath string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: dest, Options: []string{"bind", OptionBeneath + beneath}}
	}
	c.spec.Mounts = append(c.spec.Mounts, bind("/abs", "/tree"), bind("/dots/deep", "/tree"), bind("/plain", "/tree"))
	out, err := c.try("cat /tree/own/f /tree/own/deep/f /tree/plain/f; ls /own")
	if err != nil || out != "hereherehere" {
		t.Errorf("%q, %v: want the three files, and nothing in /own", out, err)
	}
	// What is to be executed there, too, and by its own links.
	must(t, os.Mkdir(tree+"/bin", 0o755), os.WriteFile(tree+"/bin/tool", nil, 0o755), os.Symlink("/bin/sh", tree+"/bin/out"), os.WriteFile(tree+"/bin/data", nil, 0o644))
	for command, want := range map[string]api.Kind{
		"tool": "", "/bin/tool": "", "bin/tool": "", "out": api.CommandNotFound, "sh": api.CommandNotFound, "/bin/data": api.CommandNotRunnable,
	} {
		c.spec.Annotations = map[string]string{AnnotationLookUp: LookUpValue("/tree", &specs.Process{Args: []string{command}, Cwd: "/", Env: []string{"A=B", "PATH=/sbin:/bin"}})}
		if _, err := c.try("true"); api.KindOf(err) != want || want == "" && err != nil {
			t.Errorf("%s: %v, want %q", command, err, want)
		}
	}
	c.spec.Annotations = nil
	// A tree that is read-only is so when all is mounted in it.
	outside := t.TempDir()
	c.spec.Mounts = []specs.Mount{c.spec.Mounts[0], {Type: "bind", Source: outside, Destination: "/tree", Options: []string{"bind", "ro"}}, bind("/made", "/tree"),
		{Type: "tmpfs", Source: "tmpfs", Destination: "/place", Options: []string{OptionPlace, OptionBeneath + "/tree"}}}
	// So is the place of what another mounts, but not what is mounted in it; and what is the tree's is not the container's own.
	place := func(dest string) specs.Mount {
		return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: dest, Options: []string{OptionPlace, OptionBeneath + "/tree"}}
	}
	c.spec.Mounts = append(c.spec.Mounts, bind("/place/in", "/tree"), place("/dev"), place("/proc"))
	if out, err := c.try("touch /tree/place/x 2>&1; touch /tree/place/in/y && echo written; touch /dev/z && test -e /dev/null && test -e /proc/self && echo own; touch /tree/dev/y 2>&1"); err != nil ||
		strings.Count(out, "Read-only") != 2 || !strings.Contains(out, "written\nown\n") {
		t.Errorf("%q, %v: want a place that is read-only, and what is in it not", out, err)
	}
	if out, err := c.try("cat /tree/made/f; touch /tree/x 2>&1; touch /tree/made/y && echo written; ls -d /tree/place"); err != nil || !strings.Contains(out, "here") || !strings.Contains(out, "Read-only") ||
		!strings.Contains(out, "written") || !strings.Contains(out, "/tree/place") {
		t.Errorf("%q, %v: want a read-only tree with a folder that is not", out, err)
	}
	c.spec.Mounts = append(c.spec.Mounts[:1], bind("/x", "/link"))
	if out, err := c.try("true"); err == nil {
		t.Errorf("a tree that is a link was mounted into: %q", out)
	}
}
