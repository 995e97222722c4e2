package criu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// FirstFD is the number that the first of Run's files has in the program.
const FirstFD = 3

// Run runs criu to its end. start starts the command, on whatever thread; nil: here. log is the file that criu writes, in folder work: its first
// error is in what is returned.
func Run(program string, args []string, files []*os.File, work, log string, start func(*exec.Cmd) error) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return api.Errorf(api.Unsupported, "checkpoint and restore need the program %s: %w: install the package criu, or name it with --criu", program, err)
	}
	log = filepath.Join(work, log)
	if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) { // a link of an archive's would lead criu elsewhere, and an old one tell old errors
		return err
	}
	said, err := os.CreateTemp(work, ".criu-") // not a pipe, which a restored process might keep open
	if err != nil {
		return err
	}
	defer said.Close()
	defer os.Remove(said.Name())
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = said, said, files
	defer keepUnified()()
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(cmd); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	err = cmd.Wait()
	if err == nil {
		return nil
	}
	text, where := readSome(log), log
	why := firstError(text)
	if why == "" {
		why, where = firstError(readSome(said.Name())), ""
	}
	if why == "" {
		why = "it did not say why"
	}
	if where == "" {
		return fmt.Errorf("criu %s: %w: %s: %s check may say what this kernel lacks", args[0], err, why, program)
	}
	return fmt.Errorf("criu %s: %w: %s: %s has more, and %s check says what this kernel lacks", args[0], err, why, where, program)
}

// answers is where criu keeps, until the next boot, what it has found out about the kernel.
const answers = "/run/criu.kdat"

// Probe has criu ask the kernel what it can, if it has not yet. In a container's cgroup, where Run may start it, some things are forbidden, and
// it would take that for the kernel's answer ever after. What it finds is told when it matters: by Run.
func Probe(program string) {
	if _, err := os.Stat(answers); err == nil {
		return
	}
	defer keepUnified()()
	exec.Command(program, "check").Run() //nolint:errcheck // see above
}

// keepUnified returns what gives the version 2 hierarchy the options back that it has now. criu mounts it for itself without any, which takes
// nsdelegate and the others from all of the machine: they belong to the file system.
func keepUnified() func() {
	point, before := unified()
	return func() {
		if _, now := unified(); point == "" || now == before {
			return
		}
		fd, err := unix.Open(point, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		var opts []string
		for o := range strings.SplitSeq(before, ",") {
			if o != "rw" && o != "ro" {
				opts = append(opts, o)
			}
		}
		mount.Reconfigure(fd, opts) //nolint:errcheck // what was asked for is done
	}
}

// unified is where the version 2 hierarchy is mounted, and its options: proc_pid_mountinfo(5).
func unified() (point, options string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", ""
	}
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		f, super := strings.Fields(before), strings.Fields(after)
		if len(f) > 4 && len(super) > 2 && super[0] == "cgroup2" {
			return f[4], super[2]
		}
	}
	return "", ""
}

// maxLog is how much of a log is looked at, in bytes.
const maxLog = 16 << 20

func readSome(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, maxLog)) //nolint:errcheck // what could be read is looked at
	return data
}

// firstError is the first line of a log that criu calls an error, without its time; the last line, where none is. That it could not make a tun
// device is no more than an answer to a question of its own.
func firstError(log []byte) string {
	last := ""
	for line := range bytes.Lines(log) {
		text := strings.TrimSpace(string(line))
		if at := strings.Index(text, "Error ("); at >= 0 && !strings.Contains(text, "tun: Unable to create tun") {
			return text[at:]
		}
		if text != "" {
			last = text
		}
	}
	return last
}
