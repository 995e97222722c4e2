package pack

import (
	"io/fs"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/store/overlay"
	"brig/internal/store/owners"

	"golang.org/x/sys/unix"
)

const (
	xattrPrefix = "SCHILY.xattr." // an invention of star that all tars share
	// maxAttributes bounds what one entry's attributes take, in bytes: readers take no PAX header over 1 MiB.
	maxAttributes = 512 << 10
)

// attributes are the extended attributes of one entry.
type attributes struct {
	records map[string]string // PAX records
	opaque  bool              // a folder of an upper layer that hides those below it
}

// attributes reads the extended attributes of an open file, which may be of the O_PATH kind.
func (p *packer) attributes(fd int, path string) (attributes, error) {
	var a attributes
	names, err := attributeNames(fd)
	if err != nil {
		return a, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	total := 0
	for _, name := range names {
		if rest, ours := strings.CutPrefix(name, overlay.Prefix()); ours {
			if err := p.overlayAttribute(fd, path, name, rest, &a); err != nil {
				return a, err
			}
			continue
		}
		if !portable(name) {
			continue
		}
		if strings.Contains(name, "=") {
			p.o.Warn("%s: the attribute %s has a name that archives cannot hold: left out", quote(path), quote(name))
			continue
		}
		value, err := attribute(fd, name)
		if err == unix.ENODATA || err == unix.ENOTSUP {
			continue
		}
		if err != nil {
			return a, &fs.PathError{Op: "getxattr", Path: path, Err: err}
		}
		if total += len(name) + len(value) + len(xattrPrefix) + 16; total > maxAttributes {
			return a, api.Errorf(api.Unsupported, "%s: its extended attributes have more than %d bytes, which archives cannot hold", quote(path), maxAttributes)
		}
		if a.records == nil {
			a.records = map[string]string{}
		}
		if p.o.Owner != nil {
			value = owners.Attribute(name, value, p.o.Owner)
		}
		a.records[xattrPrefix+name] = string(value)
	}
	return a, nil
}

// portable reports whether an attribute means something on another machine: labels of security modules do not.
func portable(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// overlayAttribute judges one of overlayfs's own. Those that only help overlayfs (where a file was copied up from) are nothing to others.
func (p *packer) overlayAttribute(fd int, path, name, what string, a *attributes) error {
	switch what {
	case "impure", "origin", "nlink", "upper", "uuid", "protattr":
		return nil
	}
	if !p.layer {
		if what != "opaque" {
			p.o.Warn("%s: the attribute %s is not for archives: left out", quote(path), quote(name))
		}
		return nil
	}
	if what == "opaque" {
		value, err := attribute(fd, name)
		if err != nil {
			return &fs.PathError{Op: "getxattr", Path: path, Err: err}
		}
		if string(value) == "y" {
			a.opaque = true
			return nil
		}
	}
	return api.Errorf(api.Unsupported, "%s: it has the attribute %s, which the layer of an image cannot express", quote(path), quote(name))
}

// attributeNames lists the names of an open file's attributes, in order.
func attributeNames(fd int) ([]string, error) {
	b, err := grow(func(b []byte) (int, error) { return unix.Listxattr(procPath(fd), b) })
	if err == unix.ENOTSUP || err == unix.ENOENT {
		return nil, nil
	}
	if err != nil || len(b) == 0 {
		return nil, err
	}
	names := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	slices.Sort(names)
	return names, nil
}

func attribute(fd int, name string) ([]byte, error) {
	return grow(func(b []byte) (int, error) { return unix.Getxattr(procPath(fd), name, b) })
}

// grow calls get with larger and larger buffers, up to the kernel's own limit, XATTR_SIZE_MAX and XATTR_LIST_MAX: 64 KiB.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 16 {
		size = min(size, 64<<10)
		b := make([]byte, size)
		n, err := get(b)
		if err == unix.ERANGE && size < 64<<10 {
			continue
		}
		return b[:max(n, 0)], err
	}
}

// sorted returns the keys of a map in order.
func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
