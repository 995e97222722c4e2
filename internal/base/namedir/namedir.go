// Package namedir is the part of a network's boot-lived folder that says who is on it under which name. It is all links, so that each is there whole
// or not at all, whoever dies when, and a look-up is a handful of system calls with nothing to be kept up to date:
//
//	name/NAME/ID   a container that is called NAME, in lower case: leads to "ADDRESS ADDRESS"
//	lease/ADDRESS  whose the address is: leads to ID
//	holder/ID      what the container has: leads to "ADDRESS ADDRESS/NAME NAME…", its own name first
//
// Who is on which networks stands in a folder of the container's own:
//
//	member/ID/NETWORK   leads to the network's folder
//	member/ID/.forward  what becomes of names that nobody there has: see [Forward]
//
// The network room writes it, as part of a lease; the container's keeper reads it, while the container looks a name up.
package namedir

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/base/atomicfile"
)

// Names of folders and files.
const (
	nameDir     = "name"
	leaseDir    = "lease"
	holderDir   = "holder"
	forwardFile = ".forward"
)

// maxName is the longest name that DNS can ask for, in bytes: RFC 1035, section 2.3.4, as text without the final dot.
const maxName = 253

// Valid reports whether a name can be asked for and be a file's: of labels of 1 to 63 bytes, with nothing in it that leads out of a folder.
func Valid[T string | []byte](name T) bool {
	if len(name) == 0 || len(name) > maxName {
		return false
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c <= ' ' || c == '/' || c == 0x7f:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0
}

// Fold is the form in which a name is kept and looked up: DNS takes upper and lower case ASCII letters for the same (RFC 4343).
func Fold(name string) string {
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' {
			b := []byte(name)
			for j := i; j < len(b); j++ {
				if c := b[j]; c >= 'A' && c <= 'Z' {
					b[j] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return name
}

// Add lets the container id be found by a name, in a network's folder. What it was found under with other addresses is replaced.
func Add(dir, name, id string, addrs []netip.Addr) error {
	folder := filepath.Join(dir, nameDir, Fold(name))
	target := join(addrs)
	for try := 0; ; try++ {
		err := os.Symlink(target, filepath.Join(folder, id))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, os.ErrNotExist) && try < 100: // another container that had the name has just left
			if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		case errors.Is(err, os.ErrExist) && try < 100:
			if old, err := os.Readlink(filepath.Join(folder, id)); err == nil && old == target {
				return nil
			}
			if err := os.Remove(filepath.Join(folder, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		default:
			return err
		}
	}
}

// Remove takes a name back. One that is not there is no error.
func Remove(dir, name, id string) error {
	folder := filepath.Join(dir, nameDir, Fold(name))
	if err := os.Remove(filepath.Join(folder, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := unix.Rmdir(folder)
	if err == nil || err == unix.ENOENT || err == unix.ENOTEMPTY {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: folder, Err: err}
}

func join(addrs []netip.Addr) string {
	var text []string
	for _, a := range addrs {
		text = append(text, a.String())
	}
	return strings.Join(text, " ")
}

// Hold is the text of a holder link.
func Hold(addrs []netip.Addr, names []string) string {
	return join(addrs) + "/" + strings.Join(names, " ")
}

// Held reads the text of a holder link.
func Held(text string) (addrs []netip.Addr, names []string) {
	before, after, _ := strings.Cut(text, "/")
	return parse(before), strings.Fields(after)
}

func parse(text string) (addrs []netip.Addr) {
	for len(text) > 0 {
		var one string
		one, text, _ = strings.Cut(text, " ")
		if a, err := netip.ParseAddr(one); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Whose finds who has an address on a network of the container: its own name and the network's.
func Whose(member string, addr netip.Addr) (name string, there bool) {
	for _, network := range list(member) {
		if network[0] == '.' {
			continue
		}
		dir := member + "/" + network + "/"
		id, err := os.Readlink(dir + leaseDir + "/" + addr.String())
		if err != nil || strings.ContainsRune(id, '/') {
			continue
		}
		text, err := os.Readlink(dir + holderDir + "/" + id)
		if err != nil {
			continue
		}
		if _, names := Held(text); len(names) > 0 {
			return names[0] + "." + network, true
		}
	}
	return "", false
}

// list reads a folder; one that cannot be read is empty. It does without package os, which asks the kernel three times more.
func list(dir string) (names []string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var buf [2048]byte
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// Forward says what becomes of a look-up that no container of the networks can answer. The zero value asks the host's own servers, from the host.
type Forward struct {
	None    bool     // nobody is asked: all the networks are internal
	Servers []string // these are asked, from the container's network
}

// Write writes it into the container's folder.
func (f Forward) Write(member string) error {
	text := "host"
	switch {
	case f.None:
		text = "none"
	case len(f.Servers) > 0:
		text = strings.Join(f.Servers, " ")
	}
	return atomicfile.Write(filepath.Join(member, forwardFile), []byte(text), 0o600, atomicfile.Volatile)
}

// ReadForward reads it. Where there is none nobody is asked: the container is just leaving.
func ReadForward(member string) Forward {
	data, err := os.ReadFile(member + "/" + forwardFile)
	switch text := string(data); {
	case err != nil || text == "none":
		return Forward{None: true}
	case text == "host":
		return Forward{}
	default:
		return Forward{Servers: strings.Fields(text)}
	}
}
