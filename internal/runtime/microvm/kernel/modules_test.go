package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// aModule is an ELF file with a section .modinfo.
func aModule(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(info) + len(names)),
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, &h)
	b.WriteString(info + names)
	binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: 64 + uint64(len(info)), Size: uint64(len(names))},
	})
	return b.Bytes()
}

// distribution is a configuration as distributions have it: devices on PCI, and as modules.
func distribution() []byte {
	s := strings.NewReplacer("CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n", "", "X86_MPPARSE=y", "ACPI=y").Replace(all())
	for _, name := range []string{"VIRTIO_CONSOLE", "VIRTIO_NET", "FUSE_FS", "VIRTIO_FS", "VIRTIO_PCI"} {
		s = strings.Replace(s, "CONFIG_"+name+"=y", "CONFIG_"+name+"=m", 1)
	}
	return []byte(s)
}

// folder makes a folder of modules for version 6.9.9-test.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, "6.9.9-test", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func complete() map[string][]byte {
	return map[string][]byte{
		"kernel/drivers/virtio/virtio_pci.ko":       aModule("license=GPL\x00depends=virtio-ring\x00"),
		"kernel/drivers/virtio/virtio_ring.ko":      aModule("depends=\x00"),
		"kernel/drivers/char/virtio_console.ko.gz":  zipped(aModule("depends=virtio_ring\x00")),
		"kernel/drivers/net/virtio_net.ko":          aModule("depends=net-failover,virtio_ring\x00"),
		"kernel/drivers/net/net_failover.ko":        aModule("depends=failover\x00"),
		"kernel/net/core/failover.ko":               aModule("name=failover\x00"),
		"kernel/fs/fuse/fuse.ko":                    aModule("depends=virtiofs\x00"), // which no kernel has: round and round
		"kernel/fs/fuse/virtiofs.ko":                aModule("depends=fuse,virtio_ring\x00"),
		"modules.order":                             []byte("kernel/fs/fuse/fuse.ko\n"),
		"kernel/drivers/gpu/never-looked-at.ko.zst": []byte("nothing"),
	}
}

// TestModules: what a distribution's kernel has as modules goes with it, in an order in which it can be loaded.
func TestModules(t *testing.T) {
	file := image(elf.EM_X86_64, 18, "")
	k, err := Read(bytes.NewReader(file), distribution(), folder(t, complete()), false)
	if err != nil || len(k.Lacks) > 0 || !k.PC {
		t.Fatalf("%+v, %v", k, err)
	}
	at := func(name string) int { return slices.Index(k.Modules, name) }
	for _, before := range [][2]string{{"virtio_ring", "virtio_pci"}, {"virtio_ring", "virtio_console"}, {"failover", "net_failover"}, {"net_failover", "virtio_net"}, {"virtiofs", "fuse"}} {
		if at(before[0]) < 0 || at(before[0]) > at(before[1]) {
			t.Errorf("%q: %s is not before %s", k.Modules, before[0], before[1])
		}
	}
	if len(k.Modules) != 8 {
		t.Errorf("%q", k.Modules)
	}
	var taken bytes.Buffer
	if _, err := k.WriteTo(&taken); err != nil {
		t.Fatal(err)
	}
	found, pc, modules, err := Behind(bytes.NewReader(taken.Bytes()), int64(taken.Len()))
	if err != nil || !found || !pc {
		t.Fatal(found, pc, err)
	}
	archive, err := io.ReadAll(modules)
	if err != nil || !bytes.HasPrefix(archive, []byte("070701")) || !bytes.Contains(archive, []byte("modules/000-virtio_ring.ko\x00")) || !bytes.Contains(archive, complete()["kernel/net/core/failover.ko"]) {
		t.Errorf("an archive of %d bytes, %v", len(archive), err)
	}
	again, err := Read(bytes.NewReader(taken.Bytes()), nil, "/nosuch", false)
	if err != nil || len(again.Lacks) > 0 || !again.PC || !again.Taken || k.Taken || !bytes.Equal(again.archive, archive) || !bytes.HasPrefix(again.ELF, file) {
		t.Errorf("what was taken is %+v, %v", again, err)
	}
	for i := range trailerSize - len(mark) {
		damaged := bytes.Clone(taken.Bytes())
		damaged[len(damaged)-1-i] ^= 0x40
		if _, err := Read(bytes.NewReader(damaged), nil, "", false); err == nil || !strings.Contains(err.Error(), "it is not whole") {
			t.Errorf("damaged %d bytes before its end: %v", i, err)
		}
	}
	path := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(path, taken.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, pc, modules, err := Open(path)
	if err != nil || !pc || modules.Size() != int64(len(archive)) {
		t.Fatal(pc, err)
	}
	f.Close()
	if err := os.Truncate(path, int64(taken.Len()-100)); err != nil { // then it is a kernel that nothing is known of
		t.Fatal(err)
	}
	if f, pc, modules, err = Open(path); err != nil || pc || modules != nil {
		t.Error(pc, modules, err)
	}
	f.Close()
}

// TestLook: a list of kernels unpacks none whose configuration is known.
func TestLook(t *testing.T) {
	k, err := Read(bytes.NewReader(bzImage([]byte("never looked at"))), distribution(), folder(t, complete()), true)
	if err != nil || len(k.Lacks) > 0 || !k.PC || k.ELF != nil || k.Version != "6.9.9-test" {
		t.Errorf("%+v, %v", k, err)
	}
}

// TestModulesMissing: what cannot be had is named.
func TestModulesMissing(t *testing.T) {
	without := func(change func(map[string][]byte)) map[string][]byte {
		files := complete()
		change(files)
		return files
	}
	for name, c := range map[string]struct {
		files  map[string][]byte
		config []byte
		want   string
	}{
		"no folder":           {nil, nil, "modules of its version: "},
		"one":                 {without(func(f map[string][]byte) { delete(f, "kernel/fs/fuse/virtiofs.ko") }), nil, "module virtiofs, which is not in "},
		"one that one needs":  {without(func(f map[string][]byte) { delete(f, "kernel/net/core/failover.ko") }), nil, ", and which module net_failover needs, and which module virtio_net needs"},
		"one that is none":    {without(func(f map[string][]byte) { f["kernel/fs/fuse/fuse.ko"] = []byte("text") }), nil, "its compression is unknown"},
		"a program":           {without(func(f map[string][]byte) { f["kernel/fs/fuse/fuse.ko"] = image(elf.EM_X86_64, 18, "") }), nil, "it is no module of Linux"},
		"what is no module's": {complete(), bytes.ReplaceAll(distribution(), []byte("ACPI=y"), []byte("ACPI=m")), "CONFIG_ACPI (there as a module, and it has to be built in)"},
	} {
		config := c.config
		if config == nil {
			config = distribution()
		}
		k, err := Read(bytes.NewReader(image(elf.EM_X86_64, 18, "")), config, folder(t, c.files), false)
		if err != nil || !strings.Contains(strings.Join(k.Lacks, "; "), c.want) {
			t.Errorf("%s: it lacks %q, %v; want %q", name, k.Lacks, err, c.want)
		}
	}
	dir := folder(t, without(func(f map[string][]byte) { delete(f, "kernel/fs/fuse/fuse.ko") }))
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "6.9.9-test", "fuse.ko")); err != nil {
		t.Fatal(err)
	}
	if k, err := Read(bytes.NewReader(image(elf.EM_X86_64, 18, "")), distribution(), dir, false); err != nil || !strings.Contains(strings.Join(k.Lacks, ""), "module fuse, which is not in") {
		t.Errorf("a link: %+v, %v", k, err)
	}
}

// FuzzModules: whatever is behind a kernel or in a module, it is read or refused.
func FuzzModules(f *testing.F) {
	f.Add([]byte(mark+strings.Repeat("\x00", 24)), aModule("depends=a,b\x00"))
	f.Fuzz(func(t *testing.T, file, module []byte) {
		if found, _, modules, err := Behind(bytes.NewReader(file), int64(len(file))); err == nil && modules != nil && (!found || modules.Size() > int64(len(file))) {
			t.Error("an archive that is larger than its file")
		}
		_, _ = dependsOn(module)
	})
}
