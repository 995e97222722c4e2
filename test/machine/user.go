package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"brig/internal/base/undo"
)

// User is a normal user with subordinate ids, whom only this mount namespace knows.
type User struct {
	ID  int
	dir string // holds a program brig that becomes the user, and what the user lacks
}

// The ids of NormalUser: its own, and the first of those that /etc/subuid and /etc/subgid give it, 65536 of each.
const (
	UserID    = 54321
	UserFirst = 5_000_000
)

// Path is a folder for the front of PATH, whose program brig drops root's rights first.
func (u *User) Path() string { return u.dir }

// Brig is that program.
func (u *User) Brig() string { return filepath.Join(u.dir, "brig") }

// NormalUser makes the user, a way out of this network for programs that copy one, and a /dev/net/tun that all may open, as distributions have it. bin is
// the folder of Brig's programs. It must be called in namespaces of its own (see Private); remove takes all away.
func NormalUser(bin string) (u *User, remove func(), err error) {
	u = &User{ID: UserID}
	var back undo.Stack
	defer back.Run()
	if u.dir, err = os.MkdirTemp("", "user"); err != nil {
		return nil, nil, err
	}
	var done []func()
	add := func(f func()) {
		back.Add(f)
		done = append(done, f)
	}
	add(func() { os.RemoveAll(u.dir) })
	mount := func(source, target, kind string, flags uintptr, data string) {
		if err != nil {
			return
		}
		if err = unix.Mount(source, target, kind, flags, data); err != nil {
			err = fmt.Errorf("mount %s: %w", target, err)
			return
		}
		add(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount("tmpfs", u.dir, "tmpfs", 0, "mode=755")
	for _, d := range []string{"bin", "etc", "work"} {
		if err == nil {
			err = os.Mkdir(filepath.Join(u.dir, d), 0o755)
		}
	}
	mount(bin, filepath.Join(u.dir, "bin"), "", unix.MS_BIND, "") // the user may not be able to reach that folder
	mount("overlay", "/etc", "overlay", 0, fmt.Sprintf("lowerdir=/etc,upperdir=%s/etc,workdir=%s/work", u.dir, u.dir))
	if err == nil {
		err = u.describe()
	}
	mount(filepath.Join(u.dir, "tun"), "/dev/net/tun", "", unix.MS_BIND, "")
	commands := [][]string{
		{"link", "add", "out0", "type", "veth", "peer", "name", "out1"}, {"address", "add", "192.0.2.1/24", "dev", "out0"},
		{"link", "set", "out0", "up"}, {"link", "set", "out1", "up"}, {"route", "add", "default", "via", "192.0.2.254"},
	}
	if _, serr := os.Stat("/proc/net/if_inet6"); serr == nil {
		commands = append(commands, []string{"address", "add", "2001:db8::1/64", "dev", "out0", "nodad"}, []string{"route", "add", "default", "via", "2001:db8::fe", "dev", "out0"})
	}
	add(func() { _ = exec.Command("ip", "link", "del", "out0").Run() })
	for _, args := range commands {
		if err == nil {
			if out, rerr := exec.Command("ip", args...).CombinedOutput(); rerr != nil {
				err = fmt.Errorf("ip %v: %w: %s", args, rerr, out)
			}
		}
	}
	if err != nil {
		return nil, nil, err
	}
	back.Release()
	return u, func() {
		for i := len(done) - 1; i >= 0; i-- {
			done[i]()
		}
	}, nil
}

// describe writes the user's files.
func (u *User) describe() error {
	script := fmt.Sprintf("#!/bin/sh\nunset BRIG_ROOT BRIG_STATE\nexec setpriv --reuid=%d --regid=%d --clear-groups --inh-caps=-all -- %s/bin/brig \"$@\"\n", u.ID, u.ID, u.dir)
	if err := os.WriteFile(u.Brig(), []byte(script), 0o755); err != nil {
		return err
	}
	// There is no server of names: who asks is told so at once, by this address. The machine's own would not be reached, silently. It may be a link to what is not ours.
	if err := os.Remove("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		return err
	}
	for file, line := range map[string]string{
		"passwd": fmt.Sprintf("brigtest:x:%d:%d::/nonexistent:/bin/sh", u.ID, u.ID), "group": fmt.Sprintf("brigtest:x:%d:", u.ID),
		"subuid": fmt.Sprintf("brigtest:%d:65536", UserFirst), "subgid": fmt.Sprintf("brigtest:%d:65536", UserFirst),
	} {
		f, err := os.OpenFile("/etc/"+file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(line + "\n")
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	tun := filepath.Join(u.dir, "tun")
	if err := unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return err
	}
	return os.Chmod(tun, 0o666)
}

// Folders makes the user's folders for data and for run time, which has a short name, and names them in the environment.
func (u *User) Folders(parent string, setenv func(key, value string)) (run string, err error) {
	if run, err = os.MkdirTemp("", "r"); err != nil {
		return "", err
	}
	data := filepath.Join(parent, ".data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return run, err
	}
	for _, d := range []string{run, data, parent} {
		if err := os.Chown(d, u.ID, u.ID); err != nil {
			return run, err
		}
	}
	for dir := parent; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return run, err
		}
	}
	setenv("XDG_DATA_HOME", data)
	setenv("XDG_RUNTIME_DIR", run)
	bus := fmt.Sprintf("/run/user/%d/bus", u.ID)
	if _, err := os.Stat(bus); err == nil { // the machine itself knows this user, and its systemd runs
		setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+bus)
	}
	return run, nil
}
