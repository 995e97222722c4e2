// Probe tries from inside of a container what an attacker would, and prints how the kernel answered. It never writes.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	switch os.Args[1] {
	case "syscalls":
		syscalls()
	case "exe":
		executables(4 * time.Second)
	}
}

// syscalls prints one line a call: its name and the error's.
func syscalls() {
	say := func(name string, err error) {
		errno, _ := err.(unix.Errno)
		fmt.Println(name, unix.ErrnoName(errno))
	}
	raw := func(name string, nr, a, b, c uintptr) {
		_, _, errno := unix.Syscall(nr, a, b, c)
		fmt.Println(name, unix.ErrnoName(errno))
	}
	_, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	say("AF_ALG", err)
	raw("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0)
	var attr [128]byte
	attr[0], attr[4], attr[8], attr[12] = unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1
	raw("bpf", unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), 48)
	raw("userfaultfd", unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0)
	var params [128]byte
	raw("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	raw("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0, 0)
	raw("unshare-user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER|unix.CLONE_FS, 0, 0) // EINVAL from the kernel: Go has threads
	say("control", unix.Access("/", unix.R_OK))
}

// executables opens every process's program for writing, for so long, and again through a descriptor held from before. "foreign" names
// a program that is not of this container, "HOLE" one that could be opened so.
func executables(long time.Duration) {
	held := map[[2]uint64]int{}
	names := map[[2]uint64]string{}
	told := map[string]bool{}
	say := func(s string) {
		if !told[s] {
			told[s] = true
			fmt.Println(s)
		}
	}
	fmt.Println("ready")
	for end := time.Now().Add(long); time.Now().Before(end); {
		links, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range links {
			fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			var st, own unix.Stat_t
			name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			unix.Fstat(fd, &st)
			key := [2]uint64{st.Dev, st.Ino}
			_, have := held[key]
			same := unix.Stat(name, &own) == nil && own.Dev == st.Dev && own.Ino == st.Ino
			if have || same || strings.HasPrefix(name, "/probe") {
				unix.Close(fd)
				continue
			}
			held[key], names[key] = fd, name
			say("foreign " + name)
			var fs unix.Statfs_t
			if err := unix.Fstatfs(fd, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 && !strings.HasPrefix(name, "/memfd:") {
				say(fmt.Sprintf("%s is on a writable mount: once nobody runs it, it can be opened (%v)", name, err))
			}
		}
		for key, fd := range held {
			for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR | unix.O_APPEND} {
				if w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC, 0); err == nil {
					say("HOLE " + names[key])
					unix.Close(w)
				} else {
					say("refused " + names[key] + ": " + err.Error())
				}
			}
		}
	}
}
