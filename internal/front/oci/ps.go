package oci

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/base/weak"
)

// printCompact writes v as JSON on one line.
func printCompact(out *os.File, v any) error {
	data, err := record.Marshal(v)
	if err == nil {
		_, err = out.Write(append(data, '\n'))
	}
	return err
}

// psTable runs ps(1) and shows the lines of the container's processes: whoever looks at a table wants their own ps options.
func (c *call) psTable(pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	cmd := exec.Command("ps", options...)
	if weak.Ps {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: "/proc/" + strconv.Itoa(pids[0]) + "/root"}
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return api.Errorf(api.Unsupported, "ps: %w: %s: the table comes from ps(1), package procps; --format json needs none", err, strings.TrimSpace(words.String()))
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return api.Errorf(api.InvalidArgument, "ps: the options %q show no column PID, by which the container's processes are told", strings.Join(options, " "))
	}
	w := c.stdout
	if _, err := w.WriteString(lines[0] + "\n"); err != nil {
		return err
	}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if column >= len(fields) {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			if _, err := w.WriteString(line + "\n"); err != nil {
				return err
			}
		}
	}
	return nil
}
