package delegated

import (
	"errors"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/systemd"
)

// keepers is the group in a subtree for those who keep containers: a group that hands controllers down may hold no process itself.
const keepers = "brig-keepers"

// patience is how long others may be on their way through a group where nobody stays.
const patience = 2 * time.Second

// turnover is how long systemd may take to let go of a scope that has come to its end: milliseconds, but seconds where all processors are busy.
const turnover = 20 * time.Second

// Join moves this process into the subtree, which may have to be made, and hands its controllers down to the groups that will be in it.
func (s *Subtree) Join() error {
	l, err := cgroup.Detect()
	if err != nil {
		return err
	}
	dir := l.Dir(s.Base)
	own, err := l.Own()
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(own, s.Base+"/") || s.Base == "/" && own != "/":
	case s.Scope:
		err = s.joinScope(dir)
	case own == s.Base:
		err = moveAll(dir)
	default:
		err = api.Errorf(api.Unavailable, "this process is in %s by now, not in %s", own, s.Base)
	}
	if err == nil {
		err = handDown(dir)
	}
	if err != nil {
		return api.Errorf(api.KindOf(err), "control group %s: %w", s.Base, err)
	}
	return nil
}

// joinScope has the user's systemd move this process into the scope, or make the scope of it. A scope may end while it is looked at, and begin.
func (s *Subtree) joinScope(dir string) error {
	c, err := systemd.DialUser()
	if err != nil {
		return err
	}
	defer c.Close()
	unit := systemd.Unit{Slice: slice, Name: path.Base(s.Base)}
	for deadline := time.Now().Add(turnover); ; time.Sleep(5 * time.Millisecond) {
		refused := makeKeepers(dir)
		if refused == nil {
			if refused = c.Attach(unit.Name, "/"+keepers); refused == nil {
				return nil
			}
		}
		err := c.StartOwnScope(unit, "Containers of Brig")
		if err == nil {
			break
		}
		if !errors.Is(err, api.AlreadyExists) {
			return err
		}
		if time.Now().After(deadline) { // it has neither ended nor taken this process
			return api.Errorf(api.Unavailable, "`systemctl --user stop %s` ends it with its containers: %w", unit.Name, refused)
		}
	}
	if err := makeKeepers(dir); err != nil { // it is elsewhere: then systemd's tree is not the usual one
		return err
	}
	return write(dir+"/"+keepers+"/cgroup.procs", "0")
}

func makeKeepers(dir string) error {
	if err := unix.Mkdir(dir+"/"+keepers, 0o755); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: dir + "/" + keepers, Err: err}
	}
	return nil
}

// moveAll moves all processes of the group at dir, this one among them, into the keepers' group: what is delegated is the user's to divide.
func moveAll(dir string) error {
	if err := makeKeepers(dir); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; {
		list, err := os.ReadFile(dir + "/cgroup.procs")
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return nil
		}
		for pid := range strings.FieldsSeq(string(list)) {
			if pid == "0" {
				return api.Errorf(api.Unsupported, "it holds processes of another PID namespace, which cannot be moved")
			}
			if err := write(dir+"/"+keepers+"/cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return api.Errorf(api.Unavailable, "processes come into it faster than they can be moved")
		}
	}
}

// handDown hands all controllers of the group at dir to those in it. Another keeper may still be on its way through it.
func handDown(dir string) error {
	have, err := controllers(dir)
	if err != nil || len(have) == 0 {
		return err
	}
	file := dir + "/cgroup.subtree_control"
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := write(file, "+"+strings.Join(have, " +"))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			break
		}
	}
	for _, controller := range have { // one that is refused refuses all; a limit that asks for it is refused by name
		_ = write(file, "+"+controller)
	}
	return nil
}

// write writes a value to a file of the kernel, in one write(2).
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
