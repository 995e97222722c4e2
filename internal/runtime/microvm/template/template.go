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

	"brig/internal/base/smallfile"
	"brig/internal/runtime/microvm/wire"
)

// Files of a template.
const (
	memoryName = "memory" // what the machine has in its memory: as large, with holes
	stateName  = "state"  // of its devices and processors, in QEMU's form
	sealName   = "seal"   // what the others are known by, as JSON
)

const (
	maxState = 16 << 20 // bytes
	maxSeal  = 4 << 10
)

// ErrDamaged means that a template is not what was sealed.
var ErrDamaged = errors.New("the template of the virtual machine is damaged")

// seal is what a whole template is known by. The memory is too much to be read at every start.
type seal struct {
	Memory   int64  // bytes
	Modified int64  // when the memory was, nanoseconds of the epoch
	State    []byte // SHA-256
}

// Files are an open template's.
type Files struct{ Memory, State *os.File }

// Close closes them.
func (t *Files) Close() {
	for _, f := range []*os.File{t.Memory, t.State} {
		if f != nil {
			f.Close()
		}
	}
}

// Create makes the files of a template of a machine with so much memory, in bytes.
func Create(dir string, memory int64) (t *Files, err error) {
	t = &Files{}
	create := func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if t.Memory, err = create(memoryName); err == nil {
		err = t.Memory.Truncate(memory)
	}
	if err == nil {
		t.State, err = create(stateName)
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Seal says that what is in the files is complete.
func (t *Files) Seal(dir string) error {
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
	if err == nil {
		t.Memory, err = os.Open(filepath.Join(dir, memoryName))
	}
	if err == nil {
		t.State, err = os.Open(filepath.Join(dir, stateName))
	}
	var found, want seal
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err == nil {
		found, err = t.look()
	}
	if err != nil || want.Memory != memory || want.Memory != found.Memory || want.Modified != found.Modified || !bytes.Equal(want.State, found.State) {
		t.Close()
		return nil, ErrDamaged
	}
	return t, nil
}

// look is what the files are.
func (t *Files) look() (seal, error) {
	info, err := t.Memory.Stat()
	if err != nil {
		return seal{}, err
	}
	h := sha256.New()
	if _, err := t.State.Seek(0, io.SeekStart); err != nil {
		return seal{}, err
	}
	if _, err := io.Copy(h, io.LimitReader(t.State, maxState)); err != nil {
		return seal{}, err
	}
	_, err = t.State.Seek(0, io.SeekStart)
	return seal{Memory: info.Size(), Modified: info.ModTime().UnixNano(), State: h.Sum(nil)}, err
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
