package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// all is a configuration that lacks nothing.
func all() string {
	var b strings.Builder
	for _, o := range slices.Concat(bare, always, without, ofPC) {
		name, _, _ := strings.Cut(o.names, "|")
		b.WriteString("CONFIG_" + name + "=y\n")
	}
	return b.String()
}

func zipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

// image is an ELF file with what Read looks for: a note of that type, a banner, and a configuration, if there is one.
func image(machine elf.Machine, note uint32, config string) []byte {
	var b bytes.Buffer
	notes := binary.LittleEndian.AppendUint32(nil, 4)
	notes = binary.LittleEndian.AppendUint32(notes, 4)
	notes = binary.LittleEndian.AppendUint32(notes, note)
	notes = append(notes, "Xen\x00\x00\x00\x00\x01"...)
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	binary.Write(&b, binary.LittleEndian, &h)
	binary.Write(&b, binary.LittleEndian, &elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: uint64(len(notes)), Memsz: uint64(len(notes))})
	b.Write(notes)
	b.WriteString("Linux version %s (\x00Linux version 6.9.9-test (somebody) #1\x00")
	if config != "" {
		b.WriteString("IKCFG_ST")
		b.Write(zipped([]byte(config)))
		b.WriteString("IKCFG_ED")
	}
	return b.Bytes()
}

// bzImage packs a payload as distributions' kernels are.
func bzImage(payload []byte) []byte {
	b := make([]byte, 1024)
	b[0x1f1] = 1
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], "6.9.9-test (somebody)")
	binary.LittleEndian.PutUint32(b[0x248:], 16)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(append(b, make([]byte, 16)...), payload...)
}

func TestRead(t *testing.T) {
	good := image(elf.EM_X86_64, 18, all())
	for name, c := range map[string]struct {
		file   []byte
		config string
		lacks  string // empty: nothing
		err    string
	}{
		"a kernel":                           {file: good},
		"compressed":                         {file: bzImage(zipped(good))},
		"not for bare machines":              {file: image(elf.EM_X86_64, 17, all()), lacks: "CONFIG_PVH"},
		"of modules":                         {file: image(elf.EM_X86_64, 18, strings.Replace(all(), "VIRTIO_FS=y", "VIRTIO_FS=m", 1)), lacks: "modules of its version: "},
		"a module that no machine can load":  {file: image(elf.EM_X86_64, 18, strings.Replace(all(), "TMPFS=y", "TMPFS=m", 1)), lacks: "CONFIG_DEVTMPFS (there as a module, and it has to be built in)"},
		"without":                            {file: image(elf.EM_X86_64, 18, strings.Replace(all(), "CONFIG_SECCOMP_FILTER=y", "# CONFIG_SECCOMP_FILTER is not set", 1)), lacks: "CONFIG_SECCOMP_FILTER"},
		"an alternative":                     {file: image(elf.EM_X86_64, 18, strings.Replace(all(), "CGROUP_DEVICE", "CGROUP_BPF", 1))},
		"too old":                            {file: bytes.Replace(good, []byte("6.9.9-test"), []byte("5.9.9-test"), -1), lacks: "Linux 6.0"},
		"it does not say":                    {file: image(elf.EM_X86_64, 18, ""), lacks: "CONFIG_IKCONFIG"},
		"a file says":                        {file: image(elf.EM_X86_64, 18, ""), config: all()},
		"a file says that it needs firmware": {file: bzImage([]byte("never looked at")), config: strings.Replace(all(), "CONFIG_PVH=y", "", 1), lacks: "CONFIG_PVH"},
		"a file says no":                     {file: bzImage([]byte("never looked at")), config: "CONFIG_UNIX=y\n", lacks: "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"},
		"for another machine":                {file: image(elf.EM_AARCH64, 18, all()), err: "not for x86-64"},
		"nothing":                            {err: "neither an ELF file nor a bzImage"},
		"text":                               {file: bytes.Repeat([]byte("text "), 1000), err: "neither an ELF file nor a bzImage"},
		"half a header":                      {file: bzImage(nil)[:0x230], err: "neither"},
		"a payload elsewhere":                {file: bzImage(good)[:1060], err: "makes no sense"},
		"unknown compression":                {file: bzImage([]byte("????????")), err: "compression is unknown"},
		"broken compression":                 {file: bzImage(zipped(good)[:60]), err: "EOF"},
		"an ELF file cut off":                {file: good[:100], err: "no Linux kernel"},
		"no ELF file inside":                 {file: bzImage(zipped([]byte("Linux version 6.1 (x)"))), err: "bad magic"},
	} {
		var config []byte
		if c.config != "" {
			config = []byte(c.config)
		}
		k, err := Read(bytes.NewReader(c.file), config, t.TempDir(), false)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !strings.HasSuffix(k.Version, ".9.9-test") || (len(k.Lacks) == 0) != (c.lacks == "") || !strings.Contains(strings.Join(k.Lacks, ";"), c.lacks):
			t.Errorf("%s: %s lacks %q, want %q", name, k.Version, k.Lacks, c.lacks)
		case c.lacks == "" && !bytes.HasPrefix(k.ELF, []byte(elf.ELFMAG)):
			t.Errorf("%s: what QEMU is to start is no ELF file", name)
		}
	}
}

// TestPrograms: distributions compress with what Go's library has not.
func TestPrograms(t *testing.T) {
	good := image(elf.EM_X86_64, 18, all())
	for program, args := range map[string][]string{"xz": {"--check=crc32"}, "zstd": nil, "bzip2": nil, "lz4": {"-l"}} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("%s is not installed", program)
			continue
		}
		cmd := exec.Command(program, append(args, "-c")...)
		cmd.Stdin = bytes.NewReader(good)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(program, err)
		}
		k, err := Read(bytes.NewReader(bzImage(binary.LittleEndian.AppendUint32(packed, uint32(len(good))))), nil, "", false)
		if err != nil || len(k.Lacks) > 0 || !bytes.Equal(k.ELF, good) {
			t.Errorf("%s: %+v, %v", program, k, err)
		}
		if _, err := Read(bytes.NewReader(bzImage(packed[:len(packed)/2])), nil, "", false); err == nil {
			t.Errorf("%s: half of it is taken", program)
		}
	}
}

// TestOurs: the kernel that Brig builds is one.
func TestOurs(t *testing.T) {
	f, err := os.Open("../../../../bin/vm-kernel")
	if err != nil {
		t.Skip("needs the kernel of virtual machines, which `make guest-kernel` builds: ", err)
	}
	defer f.Close()
	k, err := Read(f, nil, "", false)
	if err != nil || len(k.Lacks) > 0 || !strings.HasSuffix(k.Version, "-brig") {
		t.Errorf("%s lacks %q, %v", k.Version, k.Lacks, err)
	}
}

// FuzzRead: whatever the file, it is a kernel or an error.
func FuzzRead(f *testing.F) {
	good := image(elf.EM_X86_64, 18, "CONFIG_UNIX=y\n")
	f.Add(good, []byte("CONFIG_UNIX=m\n"))
	f.Add(bzImage(zipped(good)), []byte{})
	f.Fuzz(func(t *testing.T, file, config []byte) {
		if k, err := Read(bytes.NewReader(file), config, "/nosuch", len(file)%2 == 0); err == nil && k.Version == "" {
			t.Error("a kernel of no version")
		}
	})
}
