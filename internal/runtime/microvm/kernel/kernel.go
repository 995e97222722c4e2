// Package kernel reads files that may be a kernel for virtual machines: an ELF file (vmlinux), or the compressed form of it that distributions install (bzImage). It says which
// Linux it is and what it lacks for a machine of Brig's. Such a machine is of one of two kinds: it has no firmware, no PCI and no modules, which starts in half the time, or it is a PC, whose
// devices a distribution's kernel finds, with the modules that those need in its initial ramdisk. What it reads is not trusted.
package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/internal/runtime/microvm/wire"
)

// MaxSize bounds a kernel's file, and what it unpacks to, in bytes.
const MaxSize = 512 << 20

// Kernel is what a file is.
type Kernel struct {
	Version string   `json:"version"`           // as uname -r says it
	Lacks   []string `json:"lacks,omitempty"`   // why it cannot be a machine's; none: it can
	PC      bool     `json:"pc,omitempty"`      // the machine has to be a PC
	Taken   bool     `json:"taken,omitempty"`   // it is a file as WriteTo writes it
	Modules []string `json:"modules,omitempty"` // those that it needs, in the order in which they are loaded
	ELF     []byte   `json:"-"`                 // what QEMU starts; nil: it was not looked for
	archive []byte   // of the modules
}

// option is one of a kernel's configuration without which there is no machine, or no container in it: built in, or as a module, where it has a name here. Or another of the names.
type option struct{ names, module string }

// Needed of any kernel, of one in a machine without PCI, of one in a PC, and what a kernel that is there shows itself.
var (
	bare   = []option{{"PVH", ""}}
	always = []option{
		{"VIRTIO_CONSOLE", "virtio_console"}, {"VIRTIO_NET", "virtio_net"}, {"FUSE_FS", "fuse"}, {"VIRTIO_FS", "virtiofs"}, // the machine's devices
		{"SERIAL_8250_CONSOLE", ""}, {"BLK_DEV_INITRD", ""}, {"DEVTMPFS", ""}, {"TMPFS", ""}, {"PROC_FS", ""}, {"SYSFS", ""},
		{"INET", ""}, {"UNIX", ""}, {"UNIX98_PTYS", ""}, {"FUTEX", ""}, {"EPOLL", ""}, {"MULTIUSER", ""},
		{"NAMESPACES", ""}, {"PID_NS", ""}, {"IPC_NS", ""}, {"UTS_NS", ""}, {"NET_NS", ""}, {"CGROUPS", ""}, {"CGROUP_PIDS", ""}, {"CGROUP_DEVICE|CGROUP_BPF", ""},
		{"SECCOMP_FILTER", ""}, {"POSIX_MQUEUE", ""},
	}
	without = []option{{"VIRTIO_MMIO", ""}, {"VIRTIO_MMIO_CMDLINE_DEVICES", ""}, {"X86_MPPARSE", ""}}
	ofPC    = []option{{"PCI", ""}, {"PCI_MSI", ""}, {"VIRTIO_PCI", "virtio_pci"}, {"ACPI|X86_MPPARSE", ""}}
)

// Read takes a kernel from a file. config is what the kernel was built with, in the form of /boot/config-VERSION; nil: the kernel says so itself, or is not known. folders has a folder of
// modules for each version, as /lib/modules. Of a compressed kernel that lacks something nothing is unpacked, nor of one that is only looked at and whose configuration is known.
func Read(r io.Reader, config []byte, folders string, look bool) (*Kernel, error) {
	file, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(file) > MaxSize:
		return nil, fmt.Errorf("it has more than %d MiB", MaxSize>>20)
	case bytes.HasPrefix(file, []byte(elf.ELFMAG)):
		return whole(file, config, folders)
	}
	payload, version, err := compressed(file)
	if err != nil {
		return nil, err
	}
	if config != nil {
		k := &Kernel{Version: version}
		if lacking, _ := configured(config).lack(bare); len(lacking) > 0 {
			k.Lacks = lacking
		}
		if k.equip(config, folders); k.Lacks != nil || look {
			return k, nil
		}
	}
	if !bytes.HasPrefix(payload, gzipMagic) { // the length behind it is gzip's own
		payload = payload[:max(0, len(payload)-4)]
	}
	image, err := decompress(payload, MaxSize)
	if err != nil {
		return nil, err
	}
	return whole(image, config, folders)
}

// whole is the kernel in an ELF file.
func whole(file, config []byte, folders string) (*Kernel, error) {
	k := &Kernel{ELF: file, Version: banner(file)}
	if k.Version == "" {
		return nil, errors.New("it is no Linux kernel")
	}
	taken, pc, modules, err := Behind(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	pvh, err := startsBare(file)
	if err != nil {
		return nil, err
	}
	if !pvh {
		k.Lacks = append(k.Lacks, "CONFIG_PVH: it has no note that says where it is entered without firmware")
	}
	if taken && pvh { // it was looked into when it was
		k.Taken, k.PC = true, pc
		if modules != nil {
			k.archive, err = io.ReadAll(modules)
		}
		k.ELF = file[:len(file)-trailerSize-len(k.archive)]
		return k, err
	}
	if config == nil {
		config = builtWith(file)
	}
	if config == nil {
		k.Lacks = append(k.Lacks, "CONFIG_IKCONFIG: it does not say what it was built with, and no config file does")
		return k, nil
	}
	k.equip(config, folders)
	return k, nil
}

// equip enters which machine a kernel of a configuration can be in, with which modules, or what it lacks: for the machine for which it lacks less.
func (k *Kernel) equip(config []byte, folders string) {
	if wire.TooOld(k.Version) {
		k.Lacks = append(k.Lacks, "Linux "+wire.OldestKernel+" or later: older ones leave it to the host who may make a set-group-ID file")
	}
	set := configured(config)
	lacking, modules := set.lack(slices.Concat(ofPC, always))
	small, asModules := set.lack(slices.Concat(without, always))
	switch {
	case len(small)+len(asModules) == 0:
		return
	case len(lacking) > 0 && len(small)+len(asModules) < len(lacking):
		for _, m := range asModules {
			small = append(small, "module "+m+", which has to be built in where the machine has no PCI")
		}
		k.Lacks = append(k.Lacks, small...)
		return
	}
	k.PC = true
	if k.Lacks = append(k.Lacks, lacking...); len(lacking) > 0 || len(modules) == 0 {
		return
	}
	if err := k.take(modules, folders); err != nil {
		k.Lacks = append(k.Lacks, err.Error())
	}
}

// take takes modules of the kernel's version.
func (k *Kernel) take(names []string, folders string) error {
	if k.Version == "." || k.Version == ".." || strings.Contains(k.Version, "/") {
		return fmt.Errorf("modules: a version %s can have none", k.Version)
	}
	all, err := modulesOf(filepath.Join(folders, k.Version))
	if err != nil {
		return fmt.Errorf("modules of its version: %w", err)
	}
	for _, name := range names {
		if err := all.load(name); err != nil {
			return err
		}
	}
	for _, m := range all.order {
		k.Modules = append(k.Modules, m.name)
	}
	k.archive, err = all.archive()
	return err
}

// banner is the version in "Linux version 6.1.0-brig (…".
func banner(file []byte) string {
	for {
		_, rest, ok := bytes.Cut(file, []byte("Linux version "))
		if !ok {
			return ""
		}
		version, _, ok := bytes.Cut(rest[:min(len(rest), 100)], []byte(" "))
		if v := printable(version); ok && len(v) > 0 && v[0] >= '0' && v[0] <= '9' {
			return v
		}
		file = rest
	}
}

// printable is a text if it is one, else nothing.
func printable(b []byte) string {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return string(b)
}

// startsBare reports whether a file has the note XEN_ELFNOTE_PHYS32_ENTRY, which says where it is entered: the PVH boot protocol.
func startsBare(file []byte) (bool, error) {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return false, err
	}
	if f.Machine != elf.EM_X86_64 {
		return false, fmt.Errorf("it is for %s, not for x86-64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return false, err
		}
		for len(notes) >= 12 {
			name, desc, typ := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:]), binary.LittleEndian.Uint32(notes[8:])
			padded := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
			if padded(name)+padded(desc) > uint64(len(notes)-12) {
				break
			}
			if typ == 18 && bytes.HasPrefix(notes[12:], []byte("Xen\x00")) {
				return true, nil
			}
			notes = notes[12+padded(name)+padded(desc):]
		}
	}
	return false, nil
}

// builtWith is the configuration that a kernel with CONFIG_IKCONFIG has in it.
func builtWith(file []byte) []byte {
	_, rest, ok := bytes.Cut(file, []byte("IKCFG_ST\x1f\x8b"))
	if !ok {
		return nil
	}
	z, err := gzip.NewReader(io.MultiReader(bytes.NewReader(gzipMagic), bytes.NewReader(rest)))
	if err != nil {
		return nil
	}
	z.Multistream(false)
	config, err := io.ReadAll(io.LimitReader(z, 4<<20))
	if err != nil {
		return nil
	}
	return config
}

// configuration is a kernel's: "y", "m", a text, or nothing, by the options' names without CONFIG_.
type configuration map[string]string

func configured(file []byte) configuration {
	set := configuration{}
	for line := range strings.Lines(string(file)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			set[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	return set
}

// lack are those of options that are not there, and the modules of those that are as modules.
func (set configuration) lack(options []option) (lacking, modules []string) {
	for _, o := range options {
		best := ""
		for name := range strings.SplitSeq(o.names, "|") {
			if v := set[name]; best == "" || v == "y" {
				best = v
			}
		}
		name, _, _ := strings.Cut(o.names, "|")
		switch {
		case best == "y":
		case best == "m" && o.module != "":
			modules = append(modules, o.module)
		case best == "m":
			lacking = append(lacking, "CONFIG_"+name+" (there as a module, and it has to be built in)")
		default:
			lacking = append(lacking, "CONFIG_"+name)
		}
	}
	return lacking, modules
}

// compressed is what is packed in a bzImage, and its version: Documentation/x86/boot.rst, protocol 2.08 and later.
func compressed(file []byte) (payload []byte, version string, err error) {
	const header = 0x250
	if len(file) < header || string(file[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(file[0x206:]) < 0x208 {
		return nil, "", errors.New("it is neither an ELF file nor a bzImage")
	}
	if at := int(binary.LittleEndian.Uint16(file[0x20e:])) + 0x200; at < len(file) {
		v, _, _ := bytes.Cut(file[at:min(len(file), at+100)], []byte(" "))
		version = printable(v)
	}
	setup := uint64(file[0x1f1])
	if setup == 0 {
		setup = 4
	}
	from := (setup+1)*512 + uint64(binary.LittleEndian.Uint32(file[0x248:]))
	to := from + uint64(binary.LittleEndian.Uint32(file[0x24c:]))
	if version == "" || from >= to || to > uint64(len(file)) {
		return nil, "", errors.New("its header makes no sense")
	}
	return file[from:to], version, nil
}

var gzipMagic = []byte("\x1f\x8b")

// unpackLimit is how long a program may take to unpack a kernel.
const unpackLimit = 2 * time.Minute

// decompress undoes the compression of a kernel or a module, which may have so many bytes.
func decompress(payload []byte, limit int64) ([]byte, error) {
	if bytes.HasPrefix(payload, gzipMagic) {
		z, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		z.Multistream(false)
		return bounded(z, limit)
	}
	for magic, program := range map[string]string{"\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x02\x21\x4c\x18": "lz4", "BZh": "bzip2", "\x5d\x00\x00": "xz"} {
		if bytes.HasPrefix(payload, []byte(magic)) {
			return unpackBy(program, payload, limit)
		}
	}
	return nil, errors.New("its compression is unknown")
}

func unpackBy(program string, payload []byte, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), unpackLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-dc")
	cmd.Stdin = bytes.NewReader(payload)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("it is compressed with %s: %w", program, err)
	}
	image, err := bounded(out, limit)
	if err != nil {
		cancel()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("unpacking it with %s: %w", program, werr)
	}
	return image, err
}

func bounded(r io.Reader, limit int64) ([]byte, error) {
	image, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(image)) > limit {
		err = fmt.Errorf("it unpacks to more than %d MiB", limit>>20)
	}
	return image, err
}
