package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/rootless"
	"brig/internal/kernel/mount"
	"brig/internal/store/overlay"
	"brig/internal/store/owners"
	"brig/internal/store/snapshot/shift"
	"brig/internal/store/snapshot/tree"
)

// A normal user's container may have a user namespace within the user's. Its layers then have other owners on the disk, since the kernel maps those of mounts for root of the
// machine only. So the layers of an image become one tree for that, made once for each map by package shift, and kept beside the layers as they are:
//
//	shifted/CHAIN-MAP-refer   its files refer to those of the layers; overlayfs wants layer/ as a layer of data
//	shifted/CHAIN-MAP-copy    it has them again
//	shifted/…/fs, layers      the tree, and the diff IDs that it is made of, each in a line
//
// CHAIN and MAP are hashes of the diff IDs and of the ranges. A tree appears as a layer does, whole and durable, by rename from unpack/, and it may go at any time that no container
// needs it.

// The two kinds.
const (
	kindRefer = "-refer"
	kindCopy  = "-copy"
)

// maxFsconfig is the longest value that fsconfig(2) takes, in bytes: a layer of data can be said to it alone.
const maxFsconfig = 255

// Of is the store as a container needs it: with the owners that its user namespace has, where they are others on the disk.
func (s *Store) Of(c *api.Container) *Store {
	m, ok := mapOf(c)
	if !ok {
		return s
	}
	o := *s
	o.shifted = &m
	return &o
}

// Owners is the map between a container's numbers and those that its files have on the disk, where they are others.
func Owners(c *api.Container) (owners.Map, bool) { return mapOf(c) }

func mapOf(c *api.Container) (m owners.Map, ok bool) {
	if c.Spec.UserNS.Mode == "" || !rootless.Active() {
		return m, false
	}
	m = owners.Map{UIDs: c.Spec.UserNS.UIDMap, GIDs: c.Spec.UserNS.GIDMap}
	return m, !m.Same()
}

// Shifted is the name, without its kind, of the tree that a container needs; empty: it needs none.
func Shifted(c *api.Container) string {
	m, ok := mapOf(c)
	if !ok || len(c.Layers) == 0 {
		return ""
	}
	return shiftedName(c.Layers, m)
}

// ShiftedName is the name of a tree without its kind.
func ShiftedName(file string) string { return file[:max(strings.LastIndexByte(file, '-'), 0)] }

// ShiftedTrees lists the trees, in no order.
func (s *Store) ShiftedTrees() ([]string, error) { return readNames(filepath.Join(s.dir, "shifted")) }

// RemoveShifted removes a tree, which no container may need. That it is not there is no error.
func (s *Store) RemoveShifted(file string) error {
	if file != filepath.Base(file) || strings.HasPrefix(file, ".") {
		return api.Errorf(api.InvalidArgument, "%q is no layer with other owners", file)
	}
	l, err := s.lockUnpack(file)
	if err != nil {
		return err
	}
	defer s.unlockUnpack(file, l)
	tmp := s.unpacking(file)
	if err := tree.Remove(tmp); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, "shifted", file), tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := atomicfile.SyncDir(filepath.Join(s.dir, "shifted")); err != nil { // after a power cut it is whole or not there
		return err
	}
	return tree.Remove(tmp)
}

func shiftedName(diffIDs []string, m owners.Map) string {
	chain := sha256.Sum256([]byte(strings.Join(diffIDs, "\n")))
	h := sha256.New()
	for _, list := range [...][]api.IDRange{m.UIDs, m.GIDs} {
		for _, r := range list {
			fmt.Fprintf(h, "%d:%d:%d ", r.Inside, r.Outside, r.Size)
		}
		h.Write([]byte{'\n'})
	}
	return hex.EncodeToString(chain[:]) + "-" + hex.EncodeToString(h.Sum(nil)[:10])
}

// shiftedTree returns the tree of layers, bottom first, which it makes where there is none.
func (s *Store) shiftedTree(diffIDs []string) (string, error) {
	name := filepath.Join(s.dir, "shifted", shiftedName(diffIDs, *s.shifted))
	kinds := []string{kindCopy}
	if len(name+kindRefer+"/fs") <= maxFsconfig && refers(release()) {
		kinds = []string{kindRefer, kindCopy}
	}
	for _, kind := range kinds {
		if path := name + kind + "/fs"; unix.Access(path, unix.F_OK) == nil {
			return path, nil
		}
	}
	path, err := s.shift(diffIDs, kinds)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return "", api.Errorf(api.Exhausted, "the image's files with the owners of its user namespace: %w; free some space in %s or choose another --root", err, s.dir)
	}
	if err != nil {
		return "", api.Errorf(api.KindOf(err), "the image's files with the owners of its user namespace: %w", err)
	}
	return path, nil
}

// shift makes a tree, of the first kind that can be.
func (s *Store) shift(diffIDs, kinds []string) (path string, err error) {
	name := shiftedName(diffIDs, *s.shifted)
	place := filepath.Join(s.dir, "shifted", name)
	if err := atomicfile.MakeDir(filepath.Dir(place)); err != nil {
		return "", err
	}
	l, err := s.lockUnpack(name)
	if err != nil {
		return "", err
	}
	defer s.unlockUnpack(name, l)
	for _, kind := range kinds { // another process was quicker
		if path := place + kind + "/fs"; unix.Access(path, unix.F_OK) == nil {
			return path, nil
		}
	}
	tmp := s.unpacking(name)
	if err := tree.Remove(tmp); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = tree.Remove(tmp)
		}
	}()
	if err := os.MkdirAll(filepath.Join(tmp, "fs"), 0o700); err != nil {
		return "", err
	}
	kind := kinds[0]
	if kind == kindRefer && !canRefer(filepath.Join(tmp, "probe")) {
		kind = kindCopy
	}
	place += kind
	return place + "/fs", s.fillShifted(tmp, place, diffIDs, kind)
}

// fillShifted makes a tree in the folder fs of tmp and publishes it at place, once it is durable.
func (s *Store) fillShifted(tmp, place string, diffIDs []string, kind string) error {
	if err := os.WriteFile(filepath.Join(tmp, "layers"), []byte(strings.Join(diffIDs, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	var layers []shift.Layer
	defer func() {
		for _, l := range layers {
			unix.Close(l.FD)
		}
	}()
	for _, d := range slices.Backward(diffIDs) {
		hex, err := checkDiffID(d)
		if err != nil {
			return err
		}
		l := shift.Layer{}
		if kind == kindRefer {
			l.Refer = "/" + hex + "/fs"
		}
		if l.FD, err = openFolder(s.layerFS(hex)); err != nil {
			return err
		}
		layers = append(layers, l)
	}
	to, err := openFolder(filepath.Join(tmp, "fs"))
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := shift.Tree(context.Background(), layers, to, diskOwner(*s.shifted)); err != nil {
		return err
	}
	if err := unix.Syncfs(to); err != nil {
		return &fs.PathError{Op: "syncfs", Path: tmp, Err: err}
	}
	if err := os.Rename(tmp, place); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(place))
}

// diskOwner says whose a file is to be on the disk that belongs to one of the container's users in the image. Whom the container does not have shall be nobody there.
func diskOwner(m owners.Map) func(uid, gid uint32) (uint32, uint32) {
	strangeUID, strangeGID := owners.Stranger(m.UIDs), owners.Stranger(m.GIDs)
	return func(uid, gid uint32) (uint32, uint32) {
		u, ok := owners.Outside(m.UIDs, uid)
		if !ok {
			u = strangeUID
		}
		g, ok := owners.Outside(m.GIDs, gid)
		if !ok {
			g = strangeGID
		}
		return u, g
	}
}

func openFolder(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// Data is the folder that an overlay over lower layers needs as its layer of data; empty: none of them refers to one.
func (s *Store) Data(lowers []string) string {
	if s.shifted != nil && slices.ContainsFunc(lowers, func(path string) bool { return strings.HasSuffix(path, kindRefer+"/fs") }) {
		return filepath.Join(s.dir, "layer")
	}
	return ""
}

// canRefer tries, below a folder that is not there, whether files may refer to a layer of data.
func canRefer(top string) bool {
	defer func() { _ = tree.Remove(top) }()
	const content = "whole"
	data, lower := filepath.Join(top, "data"), filepath.Join(top, "lower")
	layer := filepath.Join(data, "layer")
	if os.MkdirAll(layer, 0o700) != nil || os.Mkdir(lower, 0o700) != nil || os.WriteFile(filepath.Join(layer, "f"), []byte(content), 0o600) != nil {
		return false
	}
	from, err := openFolder(layer)
	if err != nil {
		return false
	}
	defer unix.Close(from)
	to, err := openFolder(lower)
	if err != nil {
		return false
	}
	defer unix.Close(to)
	same := func(uid, gid uint32) (uint32, uint32) { return uid, gid }
	if shift.Tree(context.Background(), []shift.Layer{{FD: from, Refer: "/layer"}}, to, same) != nil {
		return false
	}
	fd, err := mount.New("overlay", "overlay", append(overlay.Options(), "lowerdir+="+lower, "datadir+="+data), unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	in, err := unix.Openat(fd, "f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(in)
	var b [len(content) + 1]byte
	n, err := unix.Read(in, b[:])
	return err == nil && string(b[:n]) == content
}
