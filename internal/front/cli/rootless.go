package cli

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"brig/internal/base/rootless"
	"brig/internal/base/sigpipe"
)

// Enter executes the process's own command line anew where its user is root, and returns its exit code.
type Enter func(root, state string) (int, error)

// The folders of a Brig of root's that is not told others.
const (
	defaultRoot  = "/var/lib/brig"
	defaultState = "/run/brig"
)

// defaultFolders are those of a Brig that is not told others: a normal user's are of the XDG base directory specification. Without
// XDG_RUNTIME_DIR, which sudo and su do not set, the state is where systemd would have it or, as a last resort, in /tmp.
func defaultFolders() (root, state string) {
	uid := os.Geteuid()
	if uid == 0 {
		return defaultRoot, defaultState
	}
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) { // else to be ignored: the specification
		data = filepath.Join(os.Getenv("HOME"), ".local", "share")
	}
	run := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(run) {
		run = "/run/user/" + strconv.Itoa(uid)
		var st unix.Stat_t
		if unix.Lstat(run, &st) != nil || int(st.Uid) != uid {
			return filepath.Join(data, "brig"), "/tmp/brig-run-" + strconv.Itoa(uid)
		}
	}
	return filepath.Join(data, "brig"), filepath.Join(run, "brig")
}

// becomeRoot has the command executed anew, where its user is root, and ends with its exit code. It does nothing for root, and for commands that
// need no engine.
func (a *app) becomeRoot(cmd *cobra.Command, _ []string) error {
	if fd := rootless.Membership(); fd >= 0 {
		unix.CloseOnExec(fd)
	}
	if os.Geteuid() == 0 {
		rootless.Look()
		return nil
	}
	if a.enter == nil || !needsEngine(cmd) {
		return nil
	}
	_ = sigpipe.Restore() // the one who enters hands signals on
	code, err := a.enter(a.options.Root, a.options.State)
	if err != nil {
		return &exitError{code: codeBrig, err: err}
	}
	return &exitError{code: code}
}

func needsEngine(cmd *cobra.Command) bool {
	name := strings.TrimPrefix(cmd.CommandPath(), "brig ")
	return !cmd.HasSubCommands() && name != "version" && name != "help" && !strings.HasPrefix(name, "completion ")
}
