package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const vmCase = "starts of a virtual machine"

// vmStarts compares the ways in which a virtual machine starts with QEMU booting the same kernel, with a first program that does nothing: as one types it, and as it is with what Brig knows.
func vmStarts(b *bench, _ testcase) error {
	for _, e := range b.engines {
		if e.name == "brig" {
			table, err := b.vmStarts(e.cli())
			fmt.Printf("\n%s (load %s)\n%s", vmCase, load(), table)
			return err
		}
	}
	return errors.New("brig is not among the engines")
}

// vmStarts is the result as a table in Markdown.
func (b *bench) vmStarts(brig []string) (string, error) {
	ramdisk := filepath.Join(b.dir, "vm-ramdisk")
	if err := os.WriteFile(ramdisk, firstProgram(), 0o600); err != nil {
		return "", err
	}
	kernel := filepath.Join(b.bin, "vm-kernel")
	run := append(brig[:len(brig):len(brig)], "run", "--rm", "--isolation", "vm", imageName, "echo", booted)
	tuned, err := tunedBoot(brig, kernel, ramdisk)
	if err != nil {
		return "", err
	}
	ways := []struct {
		name, env string
		argv      []string
	}{
		{"QEMU alone boots the same kernel to a first program that says so, as one types it", "", plainBoot(kernel, ramdisk)},
		{"QEMU alone, with Brig's arguments and kernel parameters", "", tuned},
		{"`run --rm IMAGE echo`, from nothing", "BRIG_VM_TEMPLATE=off", run},
		{"`run --rm IMAGE echo`, from a template", "BRIG_VM_TEMPLATE=on", run},
	}
	if err := b.madeTemplate(run); err != nil {
		return "", err
	}
	first, whole := make([][]float64, len(ways)), make([][]float64, len(ways))
	for round := range min(b.rounds, 15) + 1 {
		for _, i := range rand.Perm(len(ways)) {
			f, w, err := outputAfter(ways[i].argv, ways[i].env)
			if err != nil {
				return "", fmt.Errorf("%s: %w", ways[i].name, err)
			}
			if round > 0 {
				first[i], whole[i] = append(first[i], f), append(whole[i], w)
			}
		}
	}
	var s strings.Builder
	s.WriteString("| start of a virtual machine | first output, ms | of the first row | of the second | whole command, ms |\n|---|---:|---:|---:|---:|\n")
	for i, w := range ways {
		all := fmt.Sprintf("%.0f", quantile(whole[i], 0.5))
		if w.env == "" {
			all = "" // it is killed
		}
		took := quantile(first[i], 0.5)
		fmt.Fprintf(&s, "| %s | %.0f | %.2f | %.2f | %s |\n", w.name, took, took/quantile(first[0], 0.5), took/quantile(first[1], 0.5), all)
	}
	return s.String(), nil
}

// madeTemplate starts a machine and waits until there is a template of it.
func (b *bench) madeTemplate(run []string) error {
	if _, _, err := outputAfter(run, "BRIG_VM_TEMPLATE=on"); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "brig-root", "vm", "templates")
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		entries, _ := os.ReadDir(dir)
		made := false
		for _, e := range entries {
			if reason, ok := strings.CutSuffix(e.Name(), ".failed"); ok {
				return fmt.Errorf("there can be no template %s: see %s", reason, dir)
			}
			made = made || e.IsDir() && !strings.HasPrefix(e.Name(), ".")
		}
		if made {
			return nil
		}
	}
	return errors.New("no template was made: is there KVM here?")
}

// outputAfter executes a command until it has said booted, and then ended, in milliseconds. One without env does not end, and is killed.
func outputAfter(argv []string, env string) (first, whole float64, err error) {
	c := exec.Command(argv[0], argv[1:]...)
	var said bytes.Buffer
	c.Env, c.Stderr = append(os.Environ(), env), &said
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	ms := func(begin time.Time) float64 { return float64(time.Since(begin)) / float64(time.Millisecond) }
	begin := time.Now()
	if err := c.Start(); err != nil {
		return 0, 0, err
	}
	var text []byte // a kernel may complain before
	for chunk := make([]byte, 4096); err == nil && !bytes.Contains(text, []byte(booted)); {
		var n int
		n, err = out.Read(chunk)
		text = append(text, chunk[:n]...)
	}
	first = ms(begin)
	bare := env == ""
	if bare || err != nil {
		_ = c.Process.Kill()
	}
	if ended := c.Wait(); err == nil && !bare {
		err = ended
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w: it says %q\n%s", err, text, said.Bytes())
	}
	return first, ms(begin), nil
}

const booted = "booted"

// plainBoot is the command of a QEMU as one types it, for a machine as large as Brig's without any device but a console.
func plainBoot(kernel, ramdisk string) []string {
	return boot(kernel, ramdisk, "microvm,acpi=off", "max", "tcg", "console=ttyS0 quiet")
}

// tunedBoot is the command of a QEMU with the arguments that a machine of Brig's has, but for its devices, and the parameters that its kernel was given.
func tunedBoot(brig []string, kernel, ramdisk string) ([]string, error) {
	c := exec.Command(brig[0], append(brig[1:len(brig):len(brig)], "run", "--rm", "--isolation", "vm", "--network", "none", imageName, "cat", "/proc/cmdline")...)
	c.Env = append(os.Environ(), "BRIG_VM_TEMPLATE=off")
	line, err := c.Output()
	if err != nil {
		return nil, err
	}
	given := slices.DeleteFunc(strings.Fields(string(line)), func(p string) bool { return strings.HasPrefix(p, "virtio_mmio.device=") })
	return boot(kernel, ramdisk, "microvm,acpi=off,rtc=on", "max,-erms,-fsrm", "tcg,thread=multi,tb-size=128", strings.Join(given, " ")), nil
}

func boot(kernel, ramdisk, machine, cpu, accel, line string) []string {
	return []string{
		"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", machine, "-cpu", cpu, "-accel", accel,
		"-smp", strconv.Itoa(min(2, runtime.NumCPU())), "-m", "512M", "-kernel", kernel, "-initrd", ramdisk, "-append", line, "-serial", "stdio",
	}
}

// firstProgram is a ramdisk (cpio, "newc") with a small /init that says booted and sleeps.
func firstProgram() []byte {
	const base, header = 0x400000, 64 + 56
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1: write(2)
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea rsi, [rip+16]: behind all this
		0xba, byte(len(booted)), 0, 0, 0, // mov edx, length
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // again: mov eax, 34: pause(2)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp again
	}
	code = append(code, booted...)
	size := uint64(header + len(code))
	var elf bytes.Buffer
	elf.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0})
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + header), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0), // Elf64_Ehdr
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // Elf64_Phdr
	} {
		_ = binary.Write(&elf, binary.LittleEndian, v)
	}
	elf.Write(code)
	var out bytes.Buffer
	entry := func(name string, mode, major, minor int, data []byte) {
		pad := func() {
			for out.Len()%4 != 0 {
				out.WriteByte(0)
			}
		}
		out.WriteString("070701")
		for _, n := range []int{0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name) + 1, 0} {
			fmt.Fprintf(&out, "%08x", n)
		}
		out.WriteString(name + "\x00")
		pad()
		out.Write(data)
		pad()
	}
	entry("dev", 0o40755, 0, 0, nil)
	entry("dev/console", 0o20600, 5, 1, nil)
	entry("init", 0o100755, 0, 0, elf.Bytes())
	entry("TRAILER!!!", 0, 0, 0, nil)
	return out.Bytes()
}
