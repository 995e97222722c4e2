// Package template is the folder of a template: a virtual machine that was stopped when its agent was there and knew of nothing yet, for others to start from.
//
// Who makes one seals it last, and gives the folder its name after that; so what is found is whole, or was damaged later.
package template

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"golang.org/x/sys/unix"

	"brig/internal/base/smallfile"
	"brig/internal/runtime/microvm/procimage"
	"brig/internal/runtime/microvm/wire"
)

// Files of a template.
const (
	memoryName = "memory"  // what the machine has in its memory: as large, with holes
	pagesName  = "pages"   // what QEMU has in its own
	stateName  = "process" // the rest of QEMU's process, as JSON
	stubName   = "stub"    // the program that QEMU starts as
	sealName   = "seal"    // what all are known by, as JSON
)

const (
	maxState = 16 << 20 // bytes
	maxSeal  = 4 << 10
)

// ErrDamaged means that a template is not what was sealed.
var ErrDamaged = errors.New("the template of the virtual machine is damaged")

// seal is what a whole template is known by. Memory and pages are too much to be read at every start.
type seal struct {
	Memory, Pages   int64  // bytes
	Modified, Paged int64  // when they were, nanoseconds of the epoch
	State           []byte // SHA-256 of the others
}

// Files are an open template's.
type Files struct {
	Memory, Pages, Stub *os.File
	Process             []byte
}

// Close closes them.
func (t *Files) Close() {
	for _, f := range []*os.File{t.Memory, t.Pages, t.Stub} {
		if f != nil {
			f.Close()
		}
	}
}

// Create makes the files of a template of a machine with so much memory, in bytes. Process is the caller's to set.
func Create(dir string, memory int64) (t *Files, err error) {
	t = &Files{}
	create := func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if t.Memory, err = create(memoryName); err == nil {
		err = t.Memory.Truncate(memory)
	}
	if err == nil {
		t.Pages, err = create(pagesName)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, stubName), procimage.Stub(), 0o600)
	}
	if err == nil {
		err = os.Chmod(filepath.Join(dir, stubName), 0o755) // QEMU's user executes it, by a descriptor: nobody else comes here
	}
	if err == nil {
		t.Stub, err = os.Open(filepath.Join(dir, stubName))
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Thin gives back the space of pages of the memory that are zero.
func (t *Files) Thin() error {
	const (
		page  = 4 << 10
		least = 8 * page // that is worth a hole
		chunk = 1 << 20
	)
	b, zero := make([]byte, chunk), make([]byte, page)
	info, err := t.Memory.Stat()
	if err != nil {
		return err
	}
	fd := int(t.Memory.Fd())
	for at := int64(0); at < info.Size(); at += chunk {
		if at, err = unix.Seek(fd, at, unix.SEEK_DATA); err == unix.ENXIO {
			return nil
		} else if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		at &^= chunk - 1
		n, err := t.Memory.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return err
		}
		for i := 0; i < n; i += page {
			begin := i
			for i < n && bytes.Equal(b[i:min(i+page, n)], zero[:min(page, n-i)]) {
				i += page
			}
			if i-begin < least {
				continue
			}
			if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at+int64(begin), int64(i-begin)); err == unix.EOPNOTSUPP {
				return nil // it takes the space, then
			} else if err != nil {
				return &os.PathError{Op: "fallocate", Path: t.Memory.Name(), Err: err}
			}
		}
	}
	return nil
}

// Seal writes Process, and says that what is in the files is complete.
func (t *Files) Seal(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, stateName), t.Process, 0o600); err != nil {
		return err
	}
	s, err := t.look()
	if err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sealName), data, 0o600)
}

// Open opens a template of a machine with so much memory. The error is ErrDamaged where it is not what it was; os.ErrNotExist where there is none.
func Open(dir string, memory int64) (*Files, error) {
	if _, err := os.Lstat(dir); err != nil {
		return nil, err
	}
	t := &Files{}
	data, err := smallfile.Read(filepath.Join(dir, sealName), maxSeal)
	for _, f := range []struct {
		to   **os.File
		name string
	}{{&t.Memory, memoryName}, {&t.Pages, pagesName}, {&t.Stub, stubName}} {
		if err == nil {
			*f.to, err = os.Open(filepath.Join(dir, f.name))
		}
	}
	if err == nil {
		t.Process, err = smallfile.Read(filepath.Join(dir, stateName), maxState)
	}
	var found, want seal
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err == nil {
		found, err = t.look()
	}
	if err != nil || want.Memory != memory || !reflect.DeepEqual(want, found) {
		t.Close()
		return nil, ErrDamaged
	}
	return t, nil
}

// look is what the files are.
func (t *Files) look() (s seal, err error) {
	for _, f := range []struct {
		file           *os.File
		size, modified *int64
	}{{t.Memory, &s.Memory, &s.Modified}, {t.Pages, &s.Pages, &s.Paged}} {
		info, err := f.file.Stat()
		if err != nil {
			return s, err
		}
		*f.size, *f.modified = info.Size(), info.ModTime().UnixNano()
	}
	h := sha256.New()
	h.Write(t.Process)
	if _, err := io.Copy(h, io.NewSectionReader(t.Stub, 0, maxState)); err != nil {
		return s, err
	}
	s.State = h.Sum(nil)
	return s, nil
}

// Remove removes a template from their folder. It loses its name first: nobody finds half of it.
func Remove(dir, name string) error {
	gone := filepath.Join(dir, wire.New("gone-"+name))
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, name), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}
