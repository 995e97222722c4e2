package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/ramdisk"
	"brig/internal/runtime/microvm/wire"
)

// Bounds of what modules may be, in bytes, of how many a kernel may need, and of how many files a folder of them may have.
const (
	maxModule  = 64 << 20
	maxModules = 128 << 20
	maxCount   = 100
	maxFiles   = 100_000
)

// modules are those of one kernel, by their names.
type modules struct {
	paths map[string]string
	dir   string
	order []module
	seen  map[string]bool
	size  int
}

type module struct {
	name  string
	bytes []byte
}

// modulesOf are the modules in a folder, as /lib/modules has one for each version.
func modulesOf(dir string) (*modules, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	m := &modules{paths: map[string]string{}, dir: dir, seen: map[string]bool{}}
	files := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if files++; files > maxFiles {
			return fmt.Errorf("%s: it has more than %d files", dir, maxFiles)
		}
		name := d.Name()
		for _, packed := range []string{".gz", ".xz", ".zst"} {
			name = strings.TrimSuffix(name, packed)
		}
		if name, ok := strings.CutSuffix(name, ".ko"); ok && d.Type().IsRegular() {
			m.paths[plain(name)] = path
		}
		return nil
	})
	return m, err
}

// plain is a module's name: files have hyphens where modules have underscores.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// load enters a module behind those that it needs.
func (m *modules) load(name string) error {
	if name = plain(name); m.seen[name] {
		return nil
	}
	m.seen[name] = true
	path, ok := m.paths[name]
	if !ok {
		return fmt.Errorf("module %s, which is not in %s", name, m.dir)
	}
	if len(m.seen) > maxCount {
		return fmt.Errorf("fewer modules: it needs more than %d", maxCount)
	}
	b, err := readModule(path)
	if err != nil {
		return fmt.Errorf("module %s: %w", path, err)
	}
	if m.size += len(b); m.size > maxModules {
		return fmt.Errorf("smaller modules: they have more than %d MiB", maxModules>>20)
	}
	needs, err := dependsOn(b)
	if err != nil {
		return fmt.Errorf("module %s: %w", path, err)
	}
	for _, n := range needs {
		if err := m.load(n); err != nil {
			return fmt.Errorf("%w, and which module %s needs", err, name)
		}
	}
	m.order = append(m.order, module{name, b})
	return nil
}

// archive is what the initial ramdisk gets.
func (m *modules) archive() ([]byte, error) {
	var b bytes.Buffer
	w := ramdisk.NewWriter(&b)
	w.Dir(wire.ModulesDir)
	for i, mod := range m.order {
		w.File(fmt.Sprintf("%s/%03d-%s.ko", wire.ModulesDir, i, mod.name), 0o600, int64(len(mod.bytes)), bytes.NewReader(mod.bytes))
	}
	err := w.Close()
	return b.Bytes(), err
}

// readModule reads a module, which may be compressed.
func readModule(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxModule+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxModule:
		return nil, fmt.Errorf("it has more than %d MiB", maxModule>>20)
	case bytes.HasPrefix(b, []byte(elf.ELFMAG)):
		return b, nil
	}
	return decompress(b, maxModule)
}

// dependsOn are the modules that one needs, which it says in its section .modinfo.
func dependsOn(module []byte) (names []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil || section.Size > 1<<20 {
		return nil, errors.New("it is no module of Linux")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok && list != "" {
			names = append(names, strings.Split(list, ",")...)
		}
	}
	return names, nil
}
