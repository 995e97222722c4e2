package oci

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/sigpipe"
	"brig/internal/base/weak"
	"brig/internal/kernel/cgroup"
	"brig/internal/runtime/config"
	"brig/internal/runtime/oci"
)

func execFlags() []flag {
	return []flag{
		{"console-socket", "", isString, "unix socket that receives the terminal's master end"},
		{"pidfd-socket", "", isString, "unix socket that receives a pidfd of the process"},
		{"cwd", "", isString, "working directory in the container"},
		{"env", "e", isList, "NAME=VALUE for the environment; may be repeated"},
		{"tty", "t", isBool, "give the process a terminal"},
		{"user", "u", isString, "UID[:GID]"},
		{"additional-gids", "g", isList, "one more group; may be repeated"},
		{"process", "p", isString, "file with the process as config.json has it; the other flags about it do not count then"},
		{"detach", "d", isBool, "return when the process runs"},
		{"pid-file", "", isString, "file to write the process's number to"},
		{"process-label", "", isString, "SELinux label"},
		{"apparmor", "", isString, "AppArmor profile"},
		{"no-new-privs", "", isBool, "no set-user-ID program gives the process more rights"},
		{"cap", "c", isList, "one more capability; may be repeated"},
		{"preserve-fds", "", isInt, "how many descriptors, from 3 on, the process inherits besides those of $LISTEN_FDS"},
		{"cgroup", "", isList, "[CONTROLLER:]PATH of a cgroup below the container's to join; may be repeated"},
		{"ignore-paused", "", isBool, "go on although the container is paused"},
	}
}

// execute is `brig-oci exec`.
func execute(c *call) (int, error) {
	e, err := c.load(c.args[0])
	if err != nil {
		return 0, err
	}
	switch status := e.status(); status {
	case specs.StateStopped:
		return 0, api.Errorf(api.Conflict, "cannot exec in a stopped container")
	case statusPaused:
		if !c.on("ignore-paused") {
			return 0, api.Errorf(api.Conflict, "cannot exec in a paused container: resume it, or give --ignore-paused, and the process waits until it is resumed")
		}
	}
	if entered, code, err := c.enterUserNS(e); entered || err != nil {
		return code, err
	}
	s, err := e.config()
	if err != nil {
		return 0, err
	}
	p, err := c.process(s)
	if err != nil {
		return 0, err
	}
	if err := c.checkConsole(p.Terminal, c.on("detach")); err != nil {
		return 0, err
	}
	if err := oci.GuardExec(e.Pid, s, p); err != nil {
		return 0, err
	}
	for _, w := range oci.Warnings(&specs.Spec{Process: p}) {
		c.logLine("warning", w)
	}
	filter, err := oci.FilterOf(s.Annotations, s.Linux.Seccomp)
	if err != nil {
		return 0, err
	}
	p.Env = inheritListen(p.Env)
	group, err := c.execGroup(e)
	if err == nil && oci.Entrusted(s.Annotations) && !c.has("cgroup") {
		group, err = group.Nested(e.Pid) // its own group hands controllers down, and holds no process
	}
	if err != nil {
		return 0, err
	}
	req := &oci.ExecRequest{Pid: e.Pid, Ticks: e.StartTicks, Process: p, Seccomp: filter, Cgroup: group, Root: e.Mount, Stdio: [3]int{0, 1, 2}, Preserve: c.preserve,
		ID: e.ID, Bundle: e.Bundle, NoNewKeyring: e.NoNewKeyring, Container: s}
	if !c.has("process") && !c.has("user") {
		req.User = s.Annotations[oci.AnnotationUser]
	}
	made, err := oci.Exec(req)
	if err != nil {
		return 0, err
	}
	return c.follow(made)
}

// enterUserNS does the whole exec as root of the container's user namespace, where the caller has no root's rights of its own; elsewhere it does nothing.
func (c *call) enterUserNS(e *entry) (entered bool, code int, err error) {
	if os.Geteuid() == 0 {
		return false, 0, nil
	}
	fd, err := oci.OtherUserNS(e.Pid)
	if err != nil || fd == 0 {
		return false, 0, err
	}
	defer unix.Close(fd)
	signals, err := sigpipe.Catch(sigpipe.All)
	if err != nil {
		return false, 0, err
	}
	p, err := oci.Enter(fd, c.preserve, append([]string{"brig-oci", "--root", c.root}, os.Args[1:]...), os.Environ())
	if err != nil {
		return false, 0, err
	}
	exit, err := c.attend(p, signals)
	return true, exit.Code, err
}

// follow starts a process that waits and, unless detached, sees it to its end.
func (c *call) follow(p *oci.Process) (int, error) {
	detached := c.on("detach")
	err := c.sendConsole(p, detached)
	if err == nil {
		err = c.sendPidfd(p.PidFD)
	}
	if err == nil {
		err = c.writePidFile(p.Pid)
	}
	if err != nil {
		p.Abandon()
		return 0, err
	}
	signals := -1
	if !detached {
		if signals, err = sigpipe.Catch(sigpipe.All); err != nil {
			p.Abandon()
			return 0, err
		}
		c.sizeTerminal(p)
	}
	c.debugf("pid %d joins container %s", p.Pid, c.args[0])
	if err := p.Start(); err != nil {
		p.Reap()
		return 0, err
	}
	if detached {
		return 0, nil
	}
	exit, err := c.attend(p, signals)
	return exit.Code, err
}

// process is the process of --process, or the container's own with another command.
func (c *call) process(s *specs.Spec) (*specs.Process, error) {
	p := s.Process
	if file := c.str("process"); file != "" {
		data, err := readConfig(file)
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "flag --process: %w", err)
		}
		if p, err = config.DecodeProcess(data); err != nil {
			return nil, api.Errorf(api.InvalidArgument, "%s: %w", file, err)
		}
		return p, nil
	}
	if len(c.args) < 2 {
		return nil, api.Errorf(api.InvalidArgument, "exec: a command, or --process FILE, is missing")
	}
	p.Args, p.CommandLine = c.args[1:], ""
	p.Terminal = c.on("tty")
	p.ConsoleSize = nil
	if c.has("cwd") {
		p.Cwd = c.str("cwd")
	}
	if c.has("apparmor") {
		p.ApparmorProfile = c.str("apparmor")
	}
	if c.has("process-label") {
		p.SelinuxLabel = c.str("process-label")
	}
	if c.has("no-new-privs") {
		p.NoNewPrivileges = c.on("no-new-privs")
	}
	for _, env := range c.list("env") {
		if name, _, ok := strings.Cut(env, "="); !ok || name == "" {
			return nil, api.Errorf(api.InvalidArgument, "exec: flag --env: %q is not NAME=VALUE", env)
		}
		p.Env = append(p.Env, env)
	}
	addCapabilities(p, c.list("cap"))
	return p, c.execUser(p)
}

// addCapabilities adds to the sets that runc adds to.
func addCapabilities(p *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	for _, name := range names {
		name = strings.ToUpper(name)
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		for _, set := range []*[]string{&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Permitted} {
			if !slices.Contains(*set, name) {
				*set = append(*set, name)
			}
		}
	}
}

func (c *call) execUser(p *specs.Process) error {
	if who := c.str("user"); who != "" {
		uid, gid, both := strings.Cut(who, ":")
		n, err := userNumber("user", uid)
		if err != nil {
			return err
		}
		p.User.UID = n
		if both {
			if p.User.GID, err = userNumber("user", gid); err != nil {
				return err
			}
		}
	}
	for _, list := range c.list("additional-gids") {
		for s := range strings.SplitSeq(list, ",") {
			n, err := userNumber("additional-gids", s)
			if err != nil {
				return err
			}
			p.User.AdditionalGids = append(p.User.AdditionalGids, n)
		}
	}
	return nil
}

// userNumber takes a user's or group's number and nothing that could wrap around to root's (CVE-2024-40635).
func userNumber(name, s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if weak.IDs {
		n, _ := strconv.Atoi(s)
		return uint32(n), nil
	}
	if err != nil || s[0] == '+' {
		return 0, api.Errorf(api.InvalidArgument, "exec: flag --%s: %q is not a number from 0 to 2147483647", name, s)
	}
	return uint32(n), nil
}

// execGroup is the cgroup to join: the container's, or one below it.
func (c *call) execGroup(e *entry) (*cgroup.Group, error) {
	if e.Cgroup == "" {
		if c.has("cgroup") {
			return nil, api.Errorf(api.Unsupported, "exec: flag --cgroup: container %s has no cgroup", e.ID)
		}
		return nil, nil
	}
	subs := c.list("cgroup")
	if len(subs) == 0 {
		return e.group()
	}
	path := ""
	for _, sub := range subs {
		controller, below, ok := strings.Cut(sub, ":")
		if !ok {
			controller, below = "", sub
		}
		if controller != "" {
			return nil, api.Errorf(api.Unsupported, "exec: flag --cgroup: a path for controller %s alone: give one path for all controllers", controller)
		}
		if path != "" {
			return nil, api.Errorf(api.InvalidArgument, "exec: flag --cgroup: more than one path for all controllers")
		}
		if slices.Contains(strings.Split(below, "/"), "..") {
			return nil, api.Errorf(api.InvalidArgument, "exec: flag --cgroup: %q leads out of the container's cgroup", below)
		}
		path = strings.Trim(below, "/")
	}
	if path == "" {
		return e.group()
	}
	return cgroup.Load(e.Cgroup + "/" + path)
}

// ps is `brig-oci ps`.
func ps(c *call) (int, error) {
	e, err := c.load(c.args[0])
	if err != nil {
		return 0, err
	}
	g, err := e.group()
	if err != nil {
		return 0, err
	}
	pids, err := g.Pids()
	if err != nil {
		return 0, err
	}
	switch c.str("format") {
	case "json":
		return 0, printCompact(c.stdout, pids)
	case "", "table":
		return 0, c.psTable(pids, c.args[1:])
	}
	return 0, api.Errorf(api.InvalidArgument, "ps: flag --format: %q is neither table nor json", c.str("format"))
}

func (c *call) group() (*entry, *cgroup.Group, error) {
	e, err := c.load(c.args[0])
	if err != nil {
		return nil, nil, err
	}
	g, err := e.group()
	return e, g, err
}

// pause is `brig-oci pause`.
func pause(c *call) (int, error) {
	e, g, err := c.group()
	if err != nil {
		return 0, err
	}
	if status := e.status(); status != specs.StateRunning && status != specs.StateCreated {
		return 0, api.Errorf(api.Conflict, "cannot pause container %s: it is %s, not running", e.ID, status)
	}
	return 0, g.Freeze()
}

// resume is `brig-oci resume`.
func resume(c *call) (int, error) {
	e, g, err := c.group()
	if err != nil {
		return 0, err
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		return 0, api.Errorf(api.Conflict, "cannot resume container %s: it is %s, not paused", e.ID, e.status())
	}
	return 0, g.Thaw()
}

func (e *entry) frozen() bool {
	g, err := e.group()
	if err != nil {
		return false
	}
	frozen, err := g.Frozen()
	return err == nil && frozen
}
