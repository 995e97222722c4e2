// Package delegated finds the subtree of control groups that a normal user's containers may have theirs in, and moves a keeper there.
//
// On version 2 a part of the tree can be a user's (cgroups(7), "Cgroup delegation"). There are two ways to one:
//
//   - This process is in it: a unit with Delegate=yes, or a container whose groups are its user's.
//   - The user's systemd has one, as the part of the machine's that is its own, and makes a scope there for who asks it. All keepers of
//     one state folder are in one scope. It ends when the last process in it does, and what is left of groups in it goes with it.
//
// A process is born in a group, or moved there, only by who may write the nearest group above both: so a process of a login session, whose
// group is root's, cannot start a container in the user's part. Its keeper has to be there first: Join. What starts from the keeper is there then.
package delegated

import (
	"hash/fnv"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/systemd"
)

// Subtree is a group that has no process of its own, or need not have one: the groups of containers are made in it, and one for their keepers.
type Subtree struct {
	Base        string   // its path, as of linux.cgroupsPath
	Scope       bool     // it is a scope of the user's systemd, which may not run yet
	Controllers []string // limits can be kept by these
}

// Find looks for the subtree of a user and a state folder, and changes nothing. Where there is none it is api.Unsupported and says why.
func Find(uid int, state string) (*Subtree, error) {
	l, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	if !l.V2() {
		return nil, api.Errorf(api.Unsupported, "version 1 of control groups cannot be delegated to a user (layout: %s)", l.Mode())
	}
	own, err := l.Own()
	if err != nil {
		return nil, err
	}
	v := view{
		own:       own,
		writable:  func(group string) bool { return writable(l.Dir(group)) },
		marked:    func(group string) bool { return marked(l.Dir(group)) },
		reachable: systemd.Reachable(true),
	}
	t, from, err := v.find(uid, state)
	if err != nil {
		return nil, err
	}
	t.Controllers, err = controllers(l.Dir(from))
	return t, err
}

// view is what there is to find.
type view struct {
	own              string                  // this process's group
	writable, marked func(group string) bool // see the functions of these names
	reachable        bool                    // there is a way to the user's systemd
}

// find returns the subtree, and the group whose controllers are those that it will have.
func (v *view) find(uid int, state string) (t *Subtree, from string, err error) {
	id := strconv.Itoa(uid)
	manager := "/user.slice/user-" + id + ".slice/user@" + id + ".service" // as logind makes it: user@.service(5)
	scope := path.Join(manager, slice, scopeName(state))
	for _, group := range []string{path.Dir(v.own), v.own} {
		// Below the user's systemd all is the user's to write, but the groups are systemd's own, except for those of which it says that they are not.
		foreign := group == manager || strings.HasPrefix(group, manager+"/") && group != scope && !v.marked(group)
		if !foreign && v.writable(group) {
			return &Subtree{Base: group}, group, nil
		}
	}
	switch {
	case !v.writable(manager):
		return nil, "", api.Errorf(api.Unsupported, "none is delegated to this user, whose systemd does not run: log in through PAM, with the package libpam-systemd, or `loginctl enable-linger`")
	case !v.reachable:
		return nil, "", api.Errorf(api.Unsupported, "none is delegated to this user, whose systemd cannot be reached: set XDG_RUNTIME_DIR=/run/user/%d", uid)
	}
	return &Subtree{Base: scope, Scope: true}, manager, nil
}

// controllers are those that the group at dir may hand down.
func controllers(dir string) ([]string, error) {
	b, err := os.ReadFile(dir + "/cgroup.controllers")
	return strings.Fields(string(b)), err
}

// slice is where the user's systemd makes the scope.
const slice = "user.slice"

// scopeName is the scope of all keepers of one state folder.
func scopeName(state string) string {
	h := fnv.New64a()
	h.Write([]byte(state))
	return "brig-" + strconv.FormatUint(h.Sum64(), 36) + ".scope"
}

// writable reports whether this user may make groups in the one at dir, hand controllers down, and move processes between them.
func writable(dir string) bool {
	for _, file := range []string{dir, dir + "/cgroup.procs", dir + "/cgroup.subtree_control"} {
		if unix.Access(file, unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// marked reports whether systemd says that it leaves what is below this group alone (CGROUP_DELEGATION of its documentation).
func marked(dir string) bool {
	var b [1]byte
	n, err := unix.Getxattr(dir, "user.delegate", b[:])
	return err == nil && n == 1 && b[0] == '1'
}

// Group is the path of a group in the subtree.
func (s *Subtree) Group(elements ...string) string {
	return path.Join(append([]string{s.Base}, elements...)...)
}

// Has reports whether limits of a controller can be kept.
func (s *Subtree) Has(controller string) bool { return slices.Contains(s.Controllers, controller) }

// Lacks says who could add a controller.
func (s *Subtree) Lacks(controller string) error {
	have := "none of the controllers of control groups is"
	if len(s.Controllers) > 0 {
		have = "of the controllers of control groups only " + strings.Join(s.Controllers, ", ") + " are"
	}
	if !s.Scope {
		return api.Errorf(api.Unsupported, "%s handed down to %s, which is delegated to this user: who made that group has to hand %s down to it", have, s.Base, controller)
	}
	return api.Errorf(api.Unsupported, "%s delegated to this user, not %s: root adds it with the lines [Service] and Delegate=%s in /etc/systemd/system/user@.service.d/delegate.conf, "+
		"and `systemctl daemon-reload`, for the user's next login", have, controller, strings.Join(append(slices.Clone(s.Controllers), controller), " "))
}

// The words of a command line that stand for a subtree.
const (
	groupArg = "--group="
	scopeArg = "--scope="
)

// Arg is the subtree as a word of a command line, for Parse; "" for none.
func (s *Subtree) Arg() string {
	switch {
	case s == nil:
		return ""
	case s.Scope:
		return scopeArg + s.Base
	}
	return groupArg + s.Base
}

// Parse takes an Arg.
func Parse(arg string) (*Subtree, bool) {
	if base, ok := strings.CutPrefix(arg, scopeArg); ok {
		return &Subtree{Base: base, Scope: true}, true
	}
	base, ok := strings.CutPrefix(arg, groupArg)
	return &Subtree{Base: base}, ok
}
