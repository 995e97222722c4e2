package guest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// modulesDir has the modules that the kernel needs to find its root, named so that their order is the order to load them in.
const modulesDir = "modules"

// needed are the modules to load; ext4 is built in.
var needed = []string{"virtio_pci", "virtio_blk", "virtio_console"}

// initScript is the first program: it mounts the root, lays the agent down there and hands over to systemd.
const initScript = `#!/bin/busybox sh
set -e
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for m in /modules/*; do $b insmod $m; done
until [ -b /dev/vda ]; do $b sleep 0.05; done
$b mount -t ext4 -o noatime /dev/vda /new
$b cp /agent /new/usr/local/sbin/guest-agent
$b mount --move /dev /new/dev
exec $b switch_root /new /sbin/init
`

// copyModules copies the needed modules, and those that they need, from a folder that depmod has indexed.
func copyModules(from, to string) error {
	index, err := os.ReadFile(filepath.Join(from, "modules.dep"))
	if err != nil {
		return err
	}
	order, err := loadOrder(string(index), needed)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for i, path := range order {
		b, err := os.ReadFile(filepath.Join(from, path))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, fmt.Sprintf("%02d-%s", i, filepath.Base(path))), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// loadOrder reads modules.dep (modules.dep(5)), where a module's needs stand in the reverse of the order to load them in.
func loadOrder(index string, names []string) ([]string, error) {
	needs := map[string][]string{}
	paths := map[string]string{}
	for line := range strings.Lines(index) {
		path, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		needs[path] = strings.Fields(rest)
		paths[strings.TrimSuffix(filepath.Base(path), ".ko")] = path
	}
	var order []string
	add := func(path string) {
		if !slices.Contains(order, path) {
			order = append(order, path)
		}
	}
	for _, name := range names {
		path, ok := paths[name]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %s.ko", name)
		}
		for _, n := range slices.Backward(needs[path]) {
			add(n)
		}
		add(path)
	}
	return order, nil
}

// initramfs writes the archive, in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).
func initramfs(w io.Writer, base string, agent []byte) error {
	busybox, err := os.ReadFile(filepath.Join(base, "busybox"))
	if err != nil {
		return err
	}
	c := &cpio{w: w}
	for _, dir := range []string{"bin", "dev", "new", "modules"} {
		c.add(dir, 0o40755, nil)
	}
	c.add("bin/busybox", 0o100755, busybox)
	c.add("agent", 0o100755, agent)
	c.add("init", 0o100755, []byte(initScript))
	modules, err := os.ReadDir(filepath.Join(base, modulesDir))
	if err != nil {
		return err
	}
	for _, m := range modules {
		b, err := os.ReadFile(filepath.Join(base, modulesDir, m.Name()))
		if err != nil {
			return err
		}
		c.add("modules/"+m.Name(), 0o100644, b)
	}
	c.add("TRAILER!!!", 0, nil)
	return c.err
}

// cpio writes an archive; the first error stays.
type cpio struct {
	w     io.Writer
	inode int
	err   error
}

func (c *cpio) add(name string, mode int, content []byte) {
	c.inode++
	h := "070701"
	for _, n := range []int{c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
		h += fmt.Sprintf("%08x", n)
	}
	c.write(padded([]byte(h + name + "\x00")))
	c.write(padded(content))
}

func (c *cpio) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
}

// padded fills up to a multiple of four.
func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
