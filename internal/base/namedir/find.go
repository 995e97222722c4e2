package namedir

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Finder looks names up, one at a time, and allocates nothing once it has found the most addresses that a name has: a keeper does so thousands of times a second, and
// what its heap takes every container pays for. Hence raw system calls, on names in a buffer.
type Finder struct {
	path     [2048]byte
	networks [1024]byte // entries of the container's folder
	ids      [2048]byte // entries of a name's folder
	link     [512]byte
	addrs    []netip.Addr
}

// Find looks a name up on all networks of the container whose folder is given, with or without the name of a network behind it. there says that somebody has it, of
// whatever family the addresses are, which are good until the next call. Whose address comes first changes from time to time.
func (f *Finder) Find(member string, name []byte) (addrs []netip.Addr, there bool) {
	f.addrs = f.addrs[:0]
	if !Valid(name) || len(member)+3*(unix.NAME_MAX+1)+len(nameDir)+2 > len(f.path) {
		return nil, false
	}
	for i, c := range name {
		name[i] = lower(c)
	}
	n := copy(f.path[:], member)
	top := f.open(n)
	if top < 0 {
		return nil, false
	}
	defer unix.Close(top)
	for list := (entries{fd: top, buf: f.networks[:]}); ; {
		network := list.next()
		if network == nil {
			return f.addrs, there
		}
		if network[0] != '.' && f.findOn(n, network, name) {
			there = true
		}
	}
}

// findOn adds the addresses that a name has on one network, whose folder is a link in that which the first n bytes of the path lead to.
func (f *Finder) findOn(n int, network, name []byte) (there bool) {
	if len(network) > maxName {
		return false
	}
	n = f.join(n, network)
	n += copy(f.path[n:], "/"+nameDir)
	at := f.join(n, name)
	folder := -1
	if cut := len(name) - len(network) - 1; cut > 0 && name[cut] == '.' && equalFold(name[cut+1:], network) {
		if folder = f.open(at); folder < 0 { // else it is all a name
			at = f.join(n, name[:cut])
		}
	}
	if folder < 0 {
		if folder = f.open(at); folder < 0 {
			return false
		}
	}
	defer unix.Close(folder)
	first, front, holders := len(f.addrs), 0, 0
	for list := (entries{fd: folder, buf: f.ids[:]}); ; {
		id := list.next()
		if id == nil {
			break
		}
		if text := f.readlink(f.join(at, id)); text != nil { // else it has left meanwhile
			if holders++; rand.IntN(holders) == 0 { // of all of them one, each as likely as the others
				front = len(f.addrs) - first
			}
			f.add(text)
		}
	}
	found := f.addrs[first:] // turned so that it comes first
	slices.Reverse(found[:front])
	slices.Reverse(found[front:])
	slices.Reverse(found)
	return holders > 0
}

// join puts a name behind the first n bytes of the path, and returns how long it is then.
func (f *Finder) join(n int, name []byte) int {
	f.path[n] = '/'
	return n + 1 + copy(f.path[n+1:], name)
}

// open opens the folder that the first n bytes of the path lead to, -1: it cannot be.
func (f *Finder) open(n int) int {
	f.path[n] = 0
	for {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, cwd, uintptr(unsafe.Pointer(&f.path[0])), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, 0, 0)
		if e == 0 {
			return int(fd)
		}
		if e != unix.EINTR {
			return -1
		}
	}
}

// readlink reads the link that the first n bytes of the path lead to, nil: there is none.
func (f *Finder) readlink(n int) []byte {
	f.path[n] = 0
	size, _, e := unix.Syscall6(unix.SYS_READLINKAT, cwd, uintptr(unsafe.Pointer(&f.path[0])), uintptr(unsafe.Pointer(&f.link[0])), uintptr(len(f.link)), 0, 0)
	if e != 0 {
		return nil
	}
	return f.link[:size]
}

// cwd is AT_FDCWD as an argument.
const cwd = ^uintptr(-unix.AT_FDCWD - 1)

// add adds the addresses of a link's text.
func (f *Finder) add(text []byte) {
	for len(text) > 0 {
		one := text
		if i := slices.Index(text, ' '); i >= 0 {
			one, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		if len(one) == 0 {
			continue
		}
		if a, err := netip.ParseAddr(unsafe.String(&one[0], len(one))); err == nil && a.Zone() == "" { // a zone would keep the buffer
			f.addrs = append(f.addrs, a)
		}
	}
}

// entries are the names in an open folder.
type entries struct {
	fd   int
	buf  []byte
	rest []byte // of what was read
}

// next returns the next name, good until the one after it, but . and .. are none; nil: there is no more.
func (e *entries) next() []byte {
	const nameAt = 19 // of linux_dirent64, see getdents64(2): inode, offset, length of the record, type
	for {
		if len(e.rest) < nameAt {
			n, err := unix.Getdents(e.fd, e.buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				return nil
			}
			e.rest = e.buf[:n]
		}
		size := int(binary.NativeEndian.Uint16(e.rest[16:]))
		if size < nameAt || size > len(e.rest) {
			return nil
		}
		name := e.rest[nameAt:size]
		e.rest = e.rest[size:]
		if i := slices.Index(name, 0); i >= 0 {
			name = name[:i]
		}
		if len(name) > 0 && string(name) != "." && string(name) != ".." {
			return name
		}
	}
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// equalFold reports whether a name in lower case is that of a network.
func equalFold(name, network []byte) bool {
	for i, c := range network {
		if name[i] != lower(c) {
			return false
		}
	}
	return true
}
