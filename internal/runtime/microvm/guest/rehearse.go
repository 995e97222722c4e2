package guest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"brig/internal/runtime/config"
	"brig/internal/runtime/microvm/wire"
)

// An emulator translates code when it runs for the first time, and nothing of that outlives a machine that was saved. Making a container is as much code as booting the kernel is, and one
// processor does it, after the tree has come. So another one makes a container meanwhile that is as most are: it ends at once, and what the two have in common is translated once. A machine that
// is to be saved does so before, which has threads and memory ready for the next time.

// Where the rehearsal takes place.
const (
	rehearsalTree  = "/rehearsal"
	rehearsalGroup = "/rehearsal"
)

// stage makes a tree for it, with a program that only ends.
func stage(tree string) error {
	for _, dir := range []string{"proc", "dev", "sys", "bin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(tree, "bin/end"), endProgram(), 0o755)
}

// rehearse makes a container that ends, and takes it away. Nobody waits for it: where it fails, what follows takes longer.
func rehearse() {
	spec, err := config.Decode([]byte(rehearsal))
	if err != nil {
		fmt.Fprintln(os.Stderr, "brig-guest: the rehearsal:", err)
		return
	}
	s := newStream(nil, 0) // nobody hears it
	defer s.close()
	c := &container{spec: spec, tree: rehearsalTree, group: rehearsalGroup}
	if err = c.build(s); err == nil {
		if err = c.begin(s); err == nil {
			_, err = s.proc.Reap()
			s.proc.Close()
		} else {
			s.abandon()
		}
		if c.made.Cgroup != nil {
			_ = c.made.Cgroup.Remove() // else it is there until the machine ends
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "brig-guest: the rehearsal:", err)
	}
}

// rehearses reports whether there is to be one: with an emulator, which says so in the kernel's arguments, and more than one processor.
func rehearses() bool {
	for _, arg := range os.Args[1:] {
		if arg == wire.Rehearse {
			return true
		}
	}
	return false
}

// rehearsal is the configuration of a container as most are.
const rehearsal = `{"ociVersion":"1.3.0","process":{"user":{"uid":0,"gid":0},"args":["end"],"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","HOSTNAME=rehearsal"],"cwd":"/",
"capabilities":{"bounding":["CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_KILL","CAP_SETGID","CAP_SETUID"],"effective":["CAP_CHOWN","CAP_KILL"],"permitted":["CAP_CHOWN","CAP_KILL"]}},
"root":{"path":"rootfs"},"hostname":"rehearsal","mounts":[
{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]},
{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","ro"]},
{"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},
{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777","size=65536k"]}],
"annotations":{"org.brig.seccomp":"default","org.brig.user":"0"},"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}]},
"namespaces":[{"type":"mount"},{"type":"network"},{"type":"pid"},{"type":"ipc"},{"type":"uts"}],
"maskedPaths":["/proc/kcore","/proc/keys","/proc/timer_list","/sys/firmware"],"readonlyPaths":["/proc/bus","/proc/irq","/proc/sys","/proc/sysrq-trigger"]}}`

// endProgram is an ELF file whose process ends with status 0.
func endProgram() []byte {
	const base, header = 0x400000, 64 + 56
	code := []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 231, 0, 0, 0, // mov eax, 231: exit_group(2)
		0x0f, 0x05, // syscall
	}
	le := binary.LittleEndian
	b := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, make([]byte, 9)...)
	b = le.AppendUint16(le.AppendUint16(b, 2), 62) // ET_EXEC, EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(le.AppendUint64(le.AppendUint64(b, base+header), 64), 0)
	b = le.AppendUint32(b, 0)
	for _, n := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	size := uint64(header + len(code))
	b = le.AppendUint32(le.AppendUint32(b, 1), 5) // PT_LOAD, readable and executable
	for _, n := range []uint64{0, base, base, size, size, 0x1000} {
		b = le.AppendUint64(b, n)
	}
	return append(b, code...)
}
