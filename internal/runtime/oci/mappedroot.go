package oci

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
)

// OptionIDMapRoot is an option of a root's mount: the files of its layers have the container's numbers, whatever its user namespace makes of them. So layers are shared by
// containers with different namespaces, and what a container writes is as if it had none.
const OptionIDMapRoot = "idmap"

// mappedRoot makes the root of a container with a user namespace from layers with the container's numbers: an overlay over ID-mapped mounts of them, which came with Linux
// 5.19. overlayfs takes its layers by path, so they are attached for a moment on a tmpfs in a mount namespace that ends with its thread; the overlay keeps what it took.
func (b *builder) mappedRoot(m *api.Mount) (fd int, err error) {
	l := b.spec.Linux
	ns, err := userns.New(l.UIDMappings, l.GIDMappings)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ns)
	mapped := func(path string) (int, error) {
		at, err := mount.Clone(unix.AT_FDCWD, path, false)
		if err != nil {
			return -1, err
		}
		if err := mount.IDMap(at, ns, false); err != nil {
			unix.Close(at)
			return -1, api.Errorf(api.Unsupported, "--userns: %s: %w: use another --root, or leave the flag out", path, err)
		}
		return at, nil
	}
	if m.Type == "bind" {
		return mapped(m.Source)
	}
	err = onThread(func() (err error) {
		fd, err = b.mappedOverlay(m, mapped)
		return err
	})
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: overlays over ID-mapped layers came with Linux 5.19", err)
	}
	return fd, err
}

// mappedOverlay does so on a thread that it takes away from the host.
func (b *builder) mappedOverlay(m *api.Mount, mapped func(string) (int, error)) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("mount propagation of /: %w", err)
	}
	place := b.req.MountPoint
	if err := unix.Mount("tmpfs", place, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		return -1, &os.PathError{Op: "mount", Path: place, Err: err}
	}
	if err := unix.Chdir(place); err != nil { // so that places have short names: mount(2) takes a page of options
		return -1, &os.PathError{Op: "chdir", Path: place, Err: err}
	}
	n := 0
	attach := func(path string) (string, error) {
		at, err := mapped(path)
		if err != nil {
			return "", err
		}
		defer unix.Close(at)
		dir := strconv.Itoa(n)
		n++
		if err := unix.Mkdir(dir, 0o700); err != nil {
			return "", &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
		target, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", &os.PathError{Op: "open", Path: dir, Err: err}
		}
		defer unix.Close(target)
		return dir, mount.Attach(at, target)
	}
	options, err := moveLayers(m.Options, attach)
	if err != nil {
		return -1, err
	}
	if err := b.actAsRoot(); err != nil {
		return -1, err
	}
	if slices.ContainsFunc(options, tooLong) { // before Linux 6.5 there is no lowerdir+, so mount(2) takes all in one
		if err := unix.Mount("overlay", place, "overlay", 0, strings.Join(options, ",")); err != nil {
			return -1, fmt.Errorf("overlay: %w", err)
		}
		return mount.Clone(unix.AT_FDCWD, place, false)
	}
	return mount.New("overlay", "overlay", options, 0)
}

// actAsRoot has what this thread makes in files belong to the container's root, with all its capabilities: overlayfs makes its own files, and copies, as who mounted it, whose
// number must have a place in the layers.
func (b *builder) actAsRoot() error {
	uid, _ := hostID(b.spec.Linux.UIDMappings, 0)
	gid, _ := hostID(b.spec.Linux.GIDMappings, 0)
	const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP of linux/securebits.h: capabilities(7)
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := unix.Setfsgid(int(gid)); err != nil {
		return os.NewSyscallError("setfsgid", err)
	}
	return os.NewSyscallError("setfsuid", unix.Setfsuid(int(uid)))
}

// moveLayers has attach attach each layer of an overlay's options, and returns the options with the places. Upper and work folder lie beside each other and must be in one mount.
func moveLayers(options []string, attach func(string) (string, error)) (moved []string, err error) {
	upper := "" // where the folder of both is attached
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case OptionIDMapRoot:
			continue
		case "lowerdir", "lowerdir+":
			var list []string
			for path := range strings.SplitSeq(value, ":") {
				at, err := attach(path)
				if err != nil {
					return nil, err
				}
				list = append(list, at)
			}
			o = key + "=" + strings.Join(list, ":")
		case "upperdir", "workdir":
			cut := strings.LastIndexByte(value, '/')
			if upper == "" {
				if upper, err = attach(value[:cut]); err != nil {
					return nil, err
				}
			}
			o = key + "=" + upper + value[cut:]
		}
		moved = append(moved, o)
	}
	return moved, nil
}
