// Probe tries from inside of a container what an attacker would, and prints how the kernel answered. It never writes.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
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
	case "swap":
		swap(os.Args[2], os.Args[3])
	case "look":
		look(3 * time.Second)
	case "fakeproc":
		fakeProc(os.Args[2:])
	case "rss", "rss-quiet":
		memory(os.Args[1] == "rss-quiet", os.Args[2:])
	case "fds":
		descriptors()
	case "peers":
		peers()
	}
}

// peers asks for the interfaces of the network namespaces in which the other ends of this one's are: "HOLE" names one that answers.
func peers() {
	for nsid := range 8 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		const header, body = unix.SizeofNlMsghdr, unix.SizeofIfInfomsg
		msg := make([]byte, header+body+8)
		binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
		binary.NativeEndian.PutUint16(msg[4:], unix.RTM_GETLINK)
		binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST)
		binary.NativeEndian.PutUint32(msg[header+4:], 1) // lo, which every one has
		binary.NativeEndian.PutUint16(msg[header+body:], 8)
		binary.NativeEndian.PutUint16(msg[header+body+2:], unix.IFLA_TARGET_NETNSID)
		binary.NativeEndian.PutUint32(msg[header+body+4:], uint32(nsid))
		answer := make([]byte, 8192)
		err = unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		n := 0
		if err == nil {
			n, _, err = unix.Recvfrom(fd, answer, 0)
		}
		unix.Close(fd)
		switch {
		case err != nil || n < header+4:
			fmt.Println(nsid, err)
		case binary.NativeEndian.Uint16(answer[4:]) == unix.RTM_NEWLINK:
			fmt.Println("HOLE", nsid)
		default:
			fmt.Println("refused", nsid, unix.Errno(-int32(binary.NativeEndian.Uint32(answer[header:]))))
		}
	}
}

// swap exchanges two names for as long as it lives.
func swap(a, b string) {
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil && err != unix.ENOENT {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// descriptors prints the numbers of those that are open.
func descriptors() {
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			fmt.Print(fd, " ")
		}
	}
}

// look tries, for so long from the first that it meets on and a minute at most, to look into every process but those that were there first, and the first process if that is the runtime still: "HOLE" names
// what was let through, "refused" what was not.
func look(long time.Duration) {
	runtime.LockOSThread() // ptrace(2) is a thread's
	told := map[string]bool{}
	say := func(s string) {
		if !told[s] {
			told[s] = true
			fmt.Println(s)
		}
	}
	own := map[string]bool{fmt.Sprintf("/proc/%d", os.Getpid()): true}
	if os.Getpid() != 1 && len(os.Args) < 3 {
		own["/proc/1"] = true
	}
	fmt.Println("ready")
	end := time.Now().Add(time.Minute)
	for seen := false; time.Now().Before(end); {
		if !seen && len(told) > 0 {
			seen, end = true, time.Now().Add(long)
		}
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			if own[dir] {
				continue
			}
			for _, name := range []string{"exe", "root", "cwd", "mem", "environ", "maps", "fd/3", "fd/4", "fd/5", "fd/6", "fd/7", "fd/8"} {
				how := unix.O_RDONLY
				if name == "exe" || name == "root" || name == "cwd" || strings.HasPrefix(name, "fd/") {
					how = unix.O_PATH
				}
				fd, err := unix.Open(dir+"/"+name, how|unix.O_CLOEXEC, 0)
				if err == unix.EACCES || err == unix.EPERM {
					say("refused " + name)
				}
				if err == nil {
					say("HOLE " + name)
					unix.Close(fd)
				}
			}
			var pid int
			fmt.Sscanf(dir, "/proc/%d", &pid)
			buf := make([]byte, 1)
			local := []unix.Iovec{{Base: &buf[0], Len: 1}}
			if _, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0); err == nil || err == unix.EFAULT {
				say("HOLE process_vm_readv")
			}
			if err := unix.PtraceSeize(pid); err == nil {
				say("HOLE ptrace")
				unix.PtraceDetach(pid)
			}
		}
	}
	fmt.Println("done")
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
			var fs unix.Statfs_t
			if err := unix.Fstatfs(fd, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 && !strings.HasPrefix(name, "/memfd:") {
				say(fmt.Sprintf("%s is on a writable mount: once nobody runs it, it can be opened (%v)", name, err))
			}
			say("foreign " + name) // last: who reads it may look at once
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

// fakeProc runs a command under a /proc that is none: a tmpfs where what a runtime reads leads to the real one, and what it writes are files. It prints
// those that something was written to.
func fakeProc(command []string) {
	runtime.LockOSThread()
	must := func(err error) {
		if err != nil {
			fmt.Println("fakeproc:", err)
			os.Exit(1)
		}
	}
	dir, err := os.MkdirTemp("", "proc")
	must(err)
	defer os.Remove(dir)
	must(os.Chmod(dir, 0o755))
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("/proc", dir, "", unix.MS_BIND, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	must(unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""))
	entries, err := os.ReadDir(dir)
	must(err)
	for _, e := range entries {
		if e.Name()[0] > '9' {
			must(os.Symlink(dir+"/"+e.Name(), "/proc/"+e.Name()))
		}
	}
	var files []string
	for pid := max(os.Getpid()-300, 1); pid < os.Getpid()+300; pid++ { // numbers of what is started from here on, and of who waits for it
		at := fmt.Sprintf("/proc/%d/", pid)
		must(os.Mkdir(at, 0o755))
		for _, name := range []string{"stat", "status", "ns", "exe", "fd", "cgroup", "mountinfo", "root", "attr"} {
			must(os.Symlink(fmt.Sprintf("%s/%d/%s", dir, pid, name), at+name))
		}
		for _, name := range []string{"oom_score_adj", "uid_map", "gid_map", "setgroups"} {
			must(os.WriteFile(at+name, nil, 0o666))
			files = append(files, at+name)
		}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	runErr := cmd.Run()
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && len(data) > 0 {
			fmt.Printf("%s: %s\n", f, strings.TrimSpace(string(data)))
		}
	}
	if runErr != nil {
		fmt.Fprintln(os.Stderr, runErr)
		unix.Unmount(dir, unix.MNT_DETACH)
		os.Remove(dir)
		os.Exit(2)
	}
}

// memory runs a command and prints the most memory that it took, in KiB, as the last line of standard error. Quiet: the command's output is lost.
func memory(quiet bool, command []string) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if quiet {
		cmd.Stdout = nil
	}
	cmd.Run()
	fmt.Fprintf(os.Stderr, "\nrss %d\n", cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	os.Exit(cmd.ProcessState.ExitCode())
}
