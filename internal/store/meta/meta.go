// Package meta keeps records: what the store knows of images and of containers, a JSON file each, and who holds which name.
//
//	image/REF.json            api.Image by its full reference, or by its ID where it has no name
//	container/ID/record.json  api.Container without its state
//	name/NAME                 symbolic link to ../container/ID, so that a lookup by name is one open
//
// A record begins with a member "sum", the checksum (FNV-1a, 64 bits) of the record without it, so that a disk that lies is found out: what does not
// match is api.Corrupt. A record without it, as older versions wrote, is taken as it is. One damaged record is in nobody's way: lists
// leave it out, and who must know of it asks [Store.ImageFiles].
//
// There is no index and no daemon: the folders are the table, and any number of processes change them at a time. Three rules keep
// them whole whenever a process dies.
//
//   - A record changes by rename: a reader sees the old one or the new one.
//   - A container exists from the moment that its folder exists. Its name is taken next, by symlink(2), which only one process can
//     win, and its record comes last. So a folder without a record is half made or half removed: [Store.Container] calls it
//     api.StatusDead, and removing it works as for any other.
//   - A name belongs to its container as long as the container's folder exists. A link that leads nowhere is free: the next process
//     that wants the name takes it over.
//
// Names are taken without a lock. name/.lock is held by who unlinks a name, so that nobody unlinks what a third has just taken.
package meta

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
	"brig/internal/base/smallfile"
)

//go:generate go run ./gen

// maxRecord bounds a record, in bytes. A container's own arguments are bounded by the kernel to 2 MiB.
const maxRecord = 16 << 20

// Store is the folder of the records, --root. It has no state of its own.
type Store struct{ root string }

// Open names the folder. It does no I/O; folders are made, 0700, by the first write.
func Open(root string) *Store { return &Store{root: root} }

// write stores v as JSON at path, in a folder that exists.
func write(path string, v any, sync atomicfile.Sync) error {
	b, err := record.Marshal(v)
	if err != nil {
		return err
	}
	b = record.Sign(b)
	if len(b) > maxRecord {
		return api.Errorf(api.InvalidArgument, "%s: %d bytes, more than the %d that a record may have", path, len(b), maxRecord)
	}
	return atomicfile.Write(path, b, 0o600, sync)
}

// read decodes the record at path. The error of a missing one is fs.ErrNotExist, that of a damaged one api.Corrupt.
func read[T any](path string, v *T, decode func(*jsonscan.Scanner, *T)) error {
	buf, err := smallfile.Read(path, maxRecord)
	if err != nil {
		return err
	}
	if len(buf) > maxRecord {
		return api.Errorf(api.Corrupt, "%s: longer than the %d bytes that a record may have", path, maxRecord)
	}
	if err := record.Verify(buf); err != nil {
		return &api.Error{Kind: api.Corrupt, Msg: path + ": the record is damaged (see `brig system check --repair`)", Err: err}
	}
	if err := jsonscan.Decode(buf, v, decode); err != nil {
		return &api.Error{Kind: api.Corrupt, Msg: path + ": not a record (see `brig system check --repair`)", Err: err}
	}
	return nil
}

// readNames lists a folder; one that is not there is empty.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// ambiguous is the error of a prefix that fits two things.
func ambiguous(what, prefix, a, b string) error {
	return api.Errorf(api.InvalidArgument, "%s %s is ambiguous: it could be %s or %s; give more digits", what, prefix, a, b)
}

// corrupt says that a record is of something else than its place says.
func corrupt(path, is, should string) error {
	return &api.Error{Kind: api.Corrupt, Msg: fmt.Sprintf("%s: it is the record of %q, not of %q", path, is, should)}
}
