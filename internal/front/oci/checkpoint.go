package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/runtime/criu"
)

// criuFlags are those that checkpoint and restore have both.
func criuFlags() []flag {
	return []flag{
		{"image-path", "", isString, "folder of the checkpoint (default: checkpoint, in the working directory)"},
		{"work-path", "", isString, "folder of criu's log (default: that of --image-path)"},
		{"tcp-established", "", isBool, "keep open TCP connections"},
		{"ext-unix-sk", "", isBool, "allow unix sockets that lead out of the container"},
		{"shell-job", "", isBool, "allow a process that has a terminal of the host's"},
		{"file-locks", "", isBool, "keep file locks"},
		{"manage-cgroups-mode", "", isString, "soft (default), full, strict or ignore"},
		{"empty-ns", "", isString, "network: make the namespace, and leave what is in it to others"},
		{"auto-dedup", "", isBool, "free the memory images of what a later one has"},
		{"lazy-pages", "", isBool, "copy memory when it is asked for (userfaultfd)"},
	}
}

func checkpointFlags() []flag {
	return append(criuFlags(),
		flag{"parent-path", "", isString, "folder of the checkpoint before, relative to --image-path"},
		flag{"leave-running", "", isBool, "let the container run on"},
		flag{"pre-dump", "", isBool, "save its memory only, and let the container run on"},
		flag{"page-server", "", isString, "ADDRESS:PORT that memory is sent to, or with --lazy-pages can be asked for at"},
		flag{"link-remap", "", isBool, "keep files that are open and removed, by a name in their folder until they are restored"},
		flag{"tcp-skip-in-flight", "", isBool, "leave out TCP connections that are not made yet"},
		flag{"status-fd", "", isInt, "descriptor that a byte is written to when lazy pages can be asked for"},
	)
}

// criuOptions reads the flags that checkpoint and restore have both. The folder of the log is made, if it is another than the checkpoint's.
func (c *call) criuOptions() (o criu.Options, err error) {
	o = criu.Options{
		TCPEstablished: c.on("tcp-established"), ExtUnixSk: c.on("ext-unix-sk"), ShellJob: c.on("shell-job"), FileLocks: c.on("file-locks"),
		AutoDedup: c.on("auto-dedup"), LazyPages: c.on("lazy-pages"), ManageCgroups: c.str("manage-cgroups-mode"), Images: c.str("image-path"), Work: c.str("work-path"),
	}
	switch o.ManageCgroups {
	case "":
		o.ManageCgroups = "soft"
	case "soft", "full", "strict", "ignore":
	default:
		return o, api.Errorf(api.InvalidArgument, "flag --manage-cgroups-mode: %q is not soft, full, strict or ignore", o.ManageCgroups)
	}
	switch ns := c.str("empty-ns"); ns {
	case "":
	case "network":
		o.EmptyNS = "net"
	default:
		return o, api.Errorf(api.InvalidArgument, "flag --empty-ns: %q is not network, the only kind that can be left empty", ns)
	}
	if c.unprivileged() {
		return o, api.Errorf(api.Unsupported, "checkpoint and restore need root's rights")
	}
	if o.Images == "" {
		o.Images = "checkpoint"
	}
	if o.Work == "" {
		o.Work = o.Images
	}
	for _, dir := range [...]*string{&o.Images, &o.Work} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return o, err
		}
	}
	if o.Work != o.Images {
		err = os.MkdirAll(o.Work, 0o700)
	}
	return o, err
}

// dump reads the flags of checkpoint alone.
func (c *call) dump() (*criu.Dump, []*os.File, error) {
	o, err := c.criuOptions()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(o.Images, 0o700); err != nil {
		return nil, nil, err
	}
	d := &criu.Dump{Options: o, LeaveRunning: c.on("leave-running"), PreDump: c.on("pre-dump"), LinkRemap: c.on("link-remap"), SkipInFlight: c.on("tcp-skip-in-flight"), Parent: c.str("parent-path"), StatusFD: -1}
	if d.Parent != "" {
		if filepath.IsAbs(d.Parent) {
			return nil, nil, api.Errorf(api.InvalidArgument, "flag --parent-path: %q must be relative to --image-path", d.Parent)
		}
		if _, err := os.Stat(filepath.Join(d.Images, d.Parent)); err != nil {
			return nil, nil, api.Errorf(api.InvalidArgument, "flag --parent-path: %w", err)
		}
	}
	if at := c.str("page-server"); at != "" {
		colon := strings.LastIndexByte(at, ':') // not package net, which would weigh on every start
		if colon <= 0 || colon == len(at)-1 {
			return nil, nil, api.Errorf(api.InvalidArgument, "flag --page-server: %q is not ADDRESS:PORT", at)
		}
		d.Address, d.Port = strings.Trim(at[:colon], "[]"), at[colon+1:]
	}
	var files []*os.File
	if n := int(c.num("status-fd")); c.has("status-fd") && n >= 0 {
		if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err != nil {
			return nil, nil, api.Errorf(api.InvalidArgument, "flag --status-fd: descriptor %d is not open", n)
		}
		files = append(files, os.NewFile(uintptr(n), "status-fd"))
		d.StatusFD = criu.FirstFD
	}
	return d, files, nil
}

// checkpoint is `brig-oci checkpoint`.
func checkpoint(c *call) (int, error) {
	e, l, err := c.hold(c.args[0])
	if err != nil {
		return 0, err
	}
	defer l.Release()
	if status := e.status(); status != specs.StateRunning {
		return 0, api.Errorf(api.Conflict, "container %s cannot be checkpointed: it is %s, not running", e.ID, status)
	}
	s, err := e.config()
	if err != nil {
		return 0, err
	}
	if err := criu.Validate(s); err != nil {
		return 0, err
	}
	d, files, err := c.dump()
	if err != nil {
		return 0, err
	}
	var g *cgroup.Group
	if e.Cgroup != "" {
		if g, err = e.group(); err != nil {
			return 0, err
		}
	}
	if d.External, err = criu.DumpExternal(s, g, e.Pid); err != nil {
		return 0, err
	}
	streams, err := criu.StreamsOf(e.Pid)
	if err != nil {
		return 0, err
	}
	d.External = append(d.External, streams.External()...)
	if err := streams.Save(d.Images); err != nil {
		return 0, err
	}
	d.Pid, d.Root = e.Pid, e.Rootfs
	c.debugf("%s %q", c.criu, d.Args())
	if err := criu.Run(c.criu, d.Args(), files, d.Work, criu.DumpLog, nil); err != nil {
		if e.alive() {
			return 0, fmt.Errorf("container %s was not checkpointed, and runs on: %w", e.ID, err)
		}
		return 0, err
	}
	if d.LeaveRunning || d.PreDump {
		return 0, nil
	}
	for deadline := time.Now().Add(killLimit); e.alive() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // criu has killed it
	}
	if e.alive() {
		return 0, api.Errorf(api.Conflict, "container %s is checkpointed, and its process %d has not ended: brig-oci delete --force %s", e.ID, e.Pid, e.ID)
	}
	return 0, c.destroy(e, nil) // as runc: the name is free for a restore
}
