package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/jsonscan"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/base/weak"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/proc"
	"brig/internal/kernel/resctrl"
	"brig/internal/runtime/config"
	"brig/internal/runtime/oci"
)

// Names in a container's folder.
const (
	configName = "config.json"
	stateName  = "state.json"
	lockName   = "lock"
)

// entry is what is kept of a container: state.json.
type entry struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Pid         int               `json:"pid"`
	StartTicks  uint64            `json:"startTicks"` // of the process, to tell it from a later one with its number
	BootID      string            `json:"bootID"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
	Cgroup      string            `json:"cgroup"` // path; "" where the container has none of its own
	// CgroupPaths are its folders by controller, "" for version 2, where the path is relative and cannot be found by itself.
	CgroupPaths map[string]string `json:"cgroupPaths,omitempty"`

	Unit string         `json:"systemdUnit,omitempty"` // that the cgroup belongs to
	RDT  *resctrl.Group `json:"intelRdt,omitempty"`

	Mount string `json:"mount,omitempty"` // as oci.Container.Mount

	NoNewKeyring bool `json:"noNewKeyring,omitempty"` // exec joins none either

	dir string
}

var entryNames = [...]string{"ociVersion", "id", "bundle", "rootfs", "pid", "startTicks", "bootID", "created", "annotations", "owner", "cgroup", "noNewKeyring", "cgroupPaths", "systemdUnit", "intelRdt", "mount"}

func readEntry(s *jsonscan.Scanner, e *entry) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(entryNames[:]) {
		case 0:
			jsonscan.String(s, &e.Version)
		case 1:
			jsonscan.String(s, &e.ID)
		case 2:
			jsonscan.String(s, &e.Bundle)
		case 3:
			jsonscan.String(s, &e.Rootfs)
		case 4:
			jsonscan.Int(s, &e.Pid)
		case 5:
			jsonscan.Uint(s, &e.StartTicks)
		case 6:
			jsonscan.String(s, &e.BootID)
		case 7:
			jsonscan.Own(s, &e.Created)
		case 8:
			jsonscan.Map(s, &e.Annotations, jsonscan.String[string])
		case 9:
			jsonscan.String(s, &e.Owner)
		case 10:
			jsonscan.String(s, &e.Cgroup)
		case 11:
			jsonscan.Bool(s, &e.NoNewKeyring)
		case 12:
			jsonscan.Map(s, &e.CgroupPaths, jsonscan.String[string])
		case 13:
			jsonscan.String(s, &e.Unit)
		case 14:
			jsonscan.Pointer(s, &e.RDT, readRDT)
		case 15:
			jsonscan.String(s, &e.Mount)
		default:
			s.Skip()
		}
	}
}

var rdtNames = [...]string{"dir", "mon", "own"}

func readRDT(s *jsonscan.Scanner, g *resctrl.Group) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(rdtNames[:]) {
		case 0:
			jsonscan.String(s, &g.Dir)
		case 1:
			jsonscan.String(s, &g.Monitor)
		case 2:
			jsonscan.Bool(s, &g.Own)
		default:
			s.Skip()
		}
	}
}

func (g *globals) dir(id string) string { return filepath.Join(g.root, id) }

// folderMode is that of all folders: what is kept of a container names paths of the host, and its gate starts it.
func folderMode() os.FileMode {
	if weak.Modes {
		return 0o777
	}
	return 0o700
}

// claim makes the folder of a new container and takes its lock. What a creator that was killed has left there goes first.
func (g *globals) claim(id string) (*lock.Lock, error) {
	dir := g.dir(id)
	if err := os.MkdirAll(g.root, folderMode()); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(makerLimit); ; {
		err := os.Mkdir(dir, folderMode())
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		l, busy, err := g.claimMade(id, err == nil)
		if l != nil || err != nil {
			return l, err
		}
		if busy {
			if time.Now().After(deadline) {
				return nil, alreadyExists(id)
			}
			time.Sleep(lockPause)
		}
	}
}

// claimMade takes the lock of a folder that is there. mine: this process has made one of that name. It may have been taken away since, and the one that is there be
// another's. nil without an error: try again, when busy in a while.
func (g *globals) claimMade(id string, mine bool) (held *lock.Lock, busy bool, err error) {
	dir := g.dir(id)
	held, err = lock.Try(filepath.Join(dir, lockName))
	there := exists(filepath.Join(dir, stateName))
	switch {
	case err == nil && there:
		held.Release()
		return nil, false, alreadyExists(id)
	case err == nil && mine && !exists(filepath.Join(dir, earlyName)):
		return held, false, nil
	case err == nil: // its creator was killed: its process ended with it
		defer held.Release()
		return nil, false, g.sweep(id)
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, lock.ErrHeld):
		return nil, false, err
	case there:
		return nil, false, alreadyExists(id)
	}
	return nil, true, nil
}

func alreadyExists(id string) error {
	return api.Errorf(api.AlreadyExists, "container with id %s already exists", id)
}

const (
	// makerLimit is how long a new container waits for one of its name that is being made: the process of a creator that was killed holds its lock until it
	// has noticed.
	makerLimit = 2 * time.Second
	lockPause  = 5 * time.Millisecond
)

// tryLock is lock.Try with some patience.
func tryLock(path string) (*lock.Lock, error) {
	for deadline := time.Now().Add(makerLimit); ; time.Sleep(lockPause) {
		l, err := lock.Try(path)
		if !errors.Is(err, lock.ErrHeld) || time.Now().After(deadline) {
			return l, err
		}
	}
}

// sweep removes what is left of a container whose creation was cut off. The caller holds its lock.
func (g *globals) sweep(id string) error {
	e := &entry{dir: g.dir(id)}
	data, err := os.ReadFile(filepath.Join(e.dir, earlyName))
	if err == nil && jsonscan.Decode(data, e, readEntry) == nil {
		if e.Cgroup != "" {
			_ = removeCgroup(e.Cgroup, nil) // best effort, as the rest
		}
		if s, err := e.config(); err == nil {
			g.poststop(e, s)
		}
	}
	return lock.RemoveHeld(e.dir, lockName)
}

// earlyName is the state before there is a process, with the path of the cgroup that is about to be made, for who finds a creation cut off.
const earlyName = "early.json"

// load reads a container's state.
func (g *globals) load(id string) (*entry, error) {
	dir := g.dir(id)
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, api.Errorf(api.NotFound, "container %s does not exist", id)
	}
	if err != nil {
		return nil, err
	}
	e := &entry{dir: dir}
	if err := jsonscan.Decode(data, e, readEntry); err != nil {
		return nil, api.Errorf(api.Corrupt, "%s/%s: %w: remove the container with brig-oci delete --force %s", dir, stateName, err, id)
	}
	return e, nil
}

// hold takes the lock of a container that exists and reads its state anew.
func (g *globals) hold(id string) (*entry, *lock.Lock, error) {
	if _, err := g.load(id); err != nil { // before the lock, which would make a file
		return nil, nil, err
	}
	l, err := lock.Take(filepath.Join(g.dir(id), lockName))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = api.Errorf(api.NotFound, "container %s does not exist", id)
		}
		return nil, nil, err
	}
	e, err := g.load(id)
	if err != nil {
		if api.KindOf(err) == api.NotFound { // deleted while this waited, which made the folder's lock anew
			_ = g.sweep(id)
		}
		l.Release()
		return nil, nil, err
	}
	return e, l, nil
}

// save writes the state. It lies where a reboot empties, so it is not synced.
func (e *entry) save() error {
	data, err := record.Marshal(e)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(e.dir, stateName), data, 0o600, atomicfile.Volatile)
}

// statusPaused is runc's word for a container whose processes are frozen; the specification has none.
const statusPaused specs.ContainerState = "paused"

// status tells what a container is doing.
func (e *entry) status() specs.ContainerState {
	switch {
	case !e.alive():
		return specs.StateStopped
	case e.frozen():
		return statusPaused
	case exists(filepath.Join(e.dir, oci.GateName)):
		return specs.StateCreated
	}
	return specs.StateRunning
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// alive reports whether the container's first process lives.
func (e *entry) alive() bool {
	return e.Pid > 0 && e.BootID == proc.BootID() && proc.Alive(e.Pid, e.StartTicks)
}

// pidfd opens the container's first process, and nobody else's.
func (e *entry) pidfd() (int, error) {
	fd, err := unix.PidfdOpen(e.Pid, 0)
	if err != nil || !e.alive() { // looked at when it is open: from then on the number cannot become another's
		if err == nil {
			unix.Close(fd)
		}
		return -1, api.Errorf(api.Conflict, "container not running: %s", e.ID)
	}
	return fd, nil
}

func (e *entry) group() (*cgroup.Group, error) {
	if e.Cgroup == "" {
		return nil, api.Errorf(api.Unsupported, "container %s has no cgroup", e.ID)
	}
	return loadGroup(e.Cgroup, e.CgroupPaths)
}

func loadGroup(path string, paths map[string]string) (*cgroup.Group, error) {
	if len(paths) == 0 {
		return cgroup.Load(path)
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return layout.LoadPaths(path, paths)
}

// begin writes what is known before anything is made, for who cleans up after a creator that was killed, and the configuration as it is now.
func (e *entry) begin(config []byte) error {
	early, err := record.Marshal(e)
	if err == nil {
		err = writeNew(filepath.Join(e.dir, earlyName), early)
	}
	if err != nil {
		return err
	}
	return writeNew(filepath.Join(e.dir, configName), config)
}

// config reads the configuration that the container was created with.
func (e *entry) config() (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(e.dir, configName))
	if err != nil {
		return nil, err
	}
	return config.Decode(data)
}

// stateJSON is the state as hooks see it.
func (e *entry) stateJSON(status specs.ContainerState, pid int) ([]byte, error) {
	return record.Marshal(specs.State{Version: e.Version, ID: e.ID, Status: status, Pid: pid, Bundle: e.Bundle, Annotations: e.Annotations})
}

// removeCgroup kills what is left in a cgroup and removes it.
func removeCgroup(path string, paths map[string]string) error {
	g, err := loadGroup(path, paths)
	if err != nil {
		if api.KindOf(err) == api.NotFound {
			return nil
		}
		return err
	}
	if g.RemoveEmpty() {
		return nil
	}
	if err := g.Kill(unix.SIGKILL); err != nil {
		return err
	}
	return g.Remove()
}

// writeNew writes a file of a container's folder, which nobody else does at the time.
func writeNew(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "write", Path: path, Err: err}
		}
		data = data[n:]
	}
	return nil
}

// jsonString quotes s for JSON.
func jsonString(s string) string {
	b, err := record.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return string(b)
}
