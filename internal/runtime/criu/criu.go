// Package criu writes the processes of a container to files and makes them again, with the program criu (https://criu.org), called by its
// command line. It knows what criu must be told of a container, and looks at what criu has made before any of it runs.
//
// An archive is not trusted with what confines a container. Mount sources, control groups, namespaces and labels come from the bundle;
// what criu takes from the archive (capabilities, mounts, system call filters) is held against the bundle while everything is stopped: Check.
package criu

import (
	"fmt"
	"strconv"
)

// Log files, in the work folder.
const (
	DumpLog    = "dump.log"
	RestoreLog = "restore.log"
)

// Options are common to dump and restore; the names are those of criu(8).
type Options struct {
	Images string // folder of the archive
	Work   string // folder of the log

	TCPEstablished, ExtUnixSk, ShellJob, FileLocks, AutoDedup, LazyPages bool

	ManageCgroups string   // soft, full, strict or ignore
	EmptyNS       string   // "net", or "": none
	External      []string // what criu finds outside of the container, or is told instead
}

func (o *Options) args(verb, log string) []string {
	args := []string{verb, "--images-dir", o.Images, "--work-dir", o.Work, "--log-file", log, "-v4"}
	for _, f := range [...]struct {
		on   bool
		name string
	}{
		{o.TCPEstablished, "--tcp-established"}, {o.ExtUnixSk, "--ext-unix-sk"}, {o.ShellJob, "--shell-job"},
		{o.FileLocks, "--file-locks"}, {o.AutoDedup, "--auto-dedup"}, {o.LazyPages, "--lazy-pages"},
	} {
		if f.on {
			args = append(args, f.name)
		}
	}
	args = append(args, "--manage-cgroups="+o.ManageCgroups)
	if o.EmptyNS != "" {
		args = append(args, "--empty-ns", o.EmptyNS)
	}
	for _, e := range o.External {
		args = append(args, "--external", e)
	}
	return args
}

// Dump is one dump, or with PreDump one of memory alone, from which the processes go on.
type Dump struct {
	Options
	Pid          int
	Root         string // of the container, on the host
	LeaveRunning bool
	PreDump      bool
	LinkRemap    bool   // give names to files that are open and have none any more
	SkipInFlight bool   // leave out TCP connections that are not made yet
	Parent       string // folder of the dump before, relative to Images; "": none
	Address      string // of the page server; "": none
	Port         string
	StatusFD     int // the program's descriptor that it writes a byte to when lazy pages can be asked for; -1: none
}

// Args is the command line.
func (d *Dump) Args() []string {
	verb := "dump"
	if d.PreDump {
		verb = "pre-dump"
	}
	args := append(d.args(verb, DumpLog), "--tree", strconv.Itoa(d.Pid), "--root", d.Root)
	if d.LeaveRunning && !d.PreDump {
		args = append(args, "--leave-running")
	}
	if d.PreDump || d.Parent != "" {
		args = append(args, "--track-mem")
	}
	if d.Parent != "" {
		args = append(args, "--prev-images-dir", d.Parent)
	}
	if d.LinkRemap {
		args = append(args, "--link-remap")
	}
	if d.SkipInFlight {
		args = append(args, "--skip-in-flight")
	}
	if d.Address != "" {
		if !d.LazyPages { // which is a server itself
			args = append(args, "--page-server")
		}
		args = append(args, "--address", d.Address, "--port", d.Port)
	}
	if d.StatusFD >= 0 {
		args = append(args, "--status-fd", strconv.Itoa(d.StatusFD))
	}
	return args
}

// Restore is one restore. The processes it makes are stopped until Release lets them go.
type Restore struct {
	Options
	Root        string // a mount
	PidFile     string
	CgroupRoots []string // [CONTROLLER:]PATH
	Inherit     []string // of descriptor First + its index: pipe:[N], net namespaces and files by their keys
	First       int
	LSMProfile  string // TYPE:NAME; "": as it was
	LSMContext  string
}

// Args is the command line.
func (r *Restore) Args() []string {
	args := append(r.args("restore", RestoreLog), "--root", r.Root, "--restore-detached", "--restore-sibling", "--leave-stopped", "--pidfile", r.PidFile)
	for _, c := range r.CgroupRoots {
		args = append(args, "--cgroup-root", c)
	}
	for i, key := range r.Inherit {
		if key != "" {
			args = append(args, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", r.First+i, key))
		}
	}
	if r.LSMProfile != "" {
		args = append(args, "--lsm-profile", r.LSMProfile)
	}
	if r.LSMContext != "" {
		args = append(args, "--lsm-mount-context", r.LSMContext)
	}
	return args
}
