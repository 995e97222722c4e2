package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// program is QEMU's, of Debian's qemu-system-x86.
const program = "qemu-system-x86_64"

// What an Image is made of.
const (
	diskFile   = "disk.img"   // ext4, as it was when the machine was saved
	memoryFile = "memory.img" // all of its RAM
	stateFile  = "state"      // registers and devices
	kernelFile = "vmlinuz"    // once the machine is saved: the head that QEMU wants to see
	initrdFile = "initrd"
	accelFile  = "accelerator"
	emptyFile  = "empty.img" // the payload disk of a machine that has none
)

const (
	cpus   = 2
	memory = "2G"

	// payloadSize is of the second disk, which the guest reads only: its size is part of what is saved, its content is not.
	payloadSize = 1 << 30
)

// masks keep units from starting that take seconds under TCG. AppArmor is on, without Debian's profiles.
const masks = " systemd.mask=apparmor.service systemd.mask=systemd-pstore.service systemd.mask=modprobe@efi_pstore.service" +
	" systemd.mask=modprobe@drm.service systemd.mask=modprobe@dm_mod.service"

// Image is a saved machine, a folder.
type Image struct {
	dir   string
	accel string // "kvm" or "tcg": a machine saved under one does not run under the other
}

func (img *Image) path(name string) string { return filepath.Join(img.dir, name) }

// top returns the folder of go.mod, from the working directory upwards: go test runs a test in its package's folder.
func top() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod from the working directory upwards: run it within the source tree")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// cacheDir is where builds are kept.
func cacheDir() (string, error) {
	dir, err := top()
	return filepath.Join(dir, ".cache", "guest"), err
}

// Find returns the saved machine that the last `make guest` has made. Errors that mean that there is none wrap ErrMissing.
func Find() (*Image, error) {
	if _, err := exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("%w: %s is not installed: `make guest` installs it and builds the guest", ErrMissing, program)
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	name, err := os.Readlink(filepath.Join(cache, currentLink))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: not built: `make guest` builds it, in two minutes", ErrMissing)
	}
	if err != nil {
		return nil, err
	}
	return open(filepath.Join(cache, name))
}

func open(dir string) (*Image, error) {
	img := &Image{dir: dir}
	b, err := os.ReadFile(img.path(accelFile))
	img.accel = strings.TrimSpace(string(b))
	return img, err
}

// machineArgs are the arguments that must be the same when a machine is saved and restored. How memory and disk are opened is not among
// those: share says whether the memory file is written, disk is the end of the drive's description, payload names the second disk. Files are named as seen from the image's folder,
// where QEMU runs: its options cannot hold every path.
func (img *Image) machineArgs(share, disk, payload string) []string {
	cpu := "max"
	if img.accel == "kvm" {
		cpu = "host"
	}
	fd := func(n int) string { return strconv.Itoa(n) }
	return []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35,memory-backend=ram,vmport=off,smbus=off", "-accel", img.accel, "-cpu", cpu, "-smp", strconv.Itoa(cpus), "-m", memory,
		"-object", "memory-backend-file,id=ram,size=" + memory + ",mem-path=" + memoryFile + ",share=" + share,
		"-kernel", kernelFile, "-initrd", initrdFile,
		// No control group of version 1; no time lost on a slow machine's watchdogs and on probing for what is not there.
		"-append", "console=ttyS0 root=/dev/vda rw cgroup_no_v1=all panic=-1 net.ifnames=0 mitigations=off nowatchdog " +
			"loglevel=4 systemd.show_status=0 random.trust_cpu=on rcupdate.rcu_cpu_stall_suppress=1" + masks,
		"-drive", "file=" + diskFile + ",if=none,id=disk,format=raw," + disk, "-device", "virtio-blk-pci,drive=disk",
		"-drive", "file=" + payload + ",if=none,id=payload,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=payload",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=agent,fd=" + fd(agentFd), "-device", "virtserialport,chardev=agent,name=brig.agent",
		"-chardev", "socket,id=qmp,fd=" + fd(qmpFd), "-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=console,path=/dev/stdout", "-serial", "chardev:console",
	}
}

// bootArgs are for a boot that writes memory and disk to the files.
func (img *Image) bootArgs() []string { return img.machineArgs("on", "cache=unsafe", emptyFile) }

// restoreArgs are for a clone: the kernel copies what it changes of the memory, QEMU what it changes of the disk.
func (img *Image) restoreArgs(payload string) []string {
	return append(img.machineArgs("off", "snapshot=on,cache=unsafe", payload), "-incoming", "defer")
}
