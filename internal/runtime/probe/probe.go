// Package probe is what `brig selftest escape` runs in a container: attempts to get out of it. Each is a real one, made so that it does no harm where it
// succeeds: what it writes is what was there, what it ends or reads was made for it. It asks the kernel and believes nothing else: no configuration is read.
//
// `brig-oci probe NAME=VALUE…` makes all of them, a line each on standard output: the name, a tab, "open" or "holds", a tab, how. Then comes a line "ready", and it waits
// to be killed, so that who has started it can try what is to be tried from outside. What makes a process useless for the others, as another root, is tried in
// a process of its own: `brig-oci probe try WHAT`. `brig-oci probe victim TOKEN` is a process of the host's for others to attack: it ends with status 7 when
// it is sent SIGUSR1.
package probe

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Hit is the exit status of a victim that was sent SIGUSR1.
const Hit = 7

// The names of places that attempts leave for who tries the rest from outside.
const (
	Link   = "/.brig-escape" // a link to the root
	Bound  = "/.brig-bound"  // where a folder of the host's is bound
	Setuid = "setuid"        // a program of root's in that folder
	Node   = "node"          // a device node in it
)

// Target is what there is on the host to be got at.
type Target struct {
	Token    string // of this run: in the victim's command line, and what the secrets say
	Secret   string // a file that only root may read
	Port     string // on the host's 127.0.0.1, where the token is told
	Abstract string // name of a socket in the abstract namespace, where it is told too
	Key      string // description of a key in the keyring of the host's user
}

// Args is how a probe is told of it.
func (t *Target) Args() []string {
	return []string{"token=" + t.Token, "secret=" + t.Secret, "port=" + t.Port, "abstract=" + t.Abstract, "key=" + t.Key}
}

func parse(args []string) (t Target) {
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		switch name {
		case "token":
			t.Token = value
		case "secret":
			t.Secret = value
		case "port":
			t.Port = value
		case "abstract":
			t.Abstract = value
		case "key":
			t.Key = value
		}
	}
	return t
}

// attempt is one way out. try reports whether it is open, and how that was seen.
type attempt struct {
	name string
	try  func(*Target) (open bool, how string)
}

// Main is `brig-oci probe`. It returns the exit status.
func Main(args []string) int {
	if len(args) > 1 && args[0] == "try" {
		return tryAlone(args[1:])
	}
	if len(args) == 2 && args[0] == "victim" {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, unix.SIGUSR1)
		fmt.Println("ready")
		select {
		case <-asked:
			return Hit
		case <-time.After(5 * time.Minute): // nobody wants it any more
			return 0
		}
	}
	t := parse(args)
	out := bufio.NewWriter(os.Stdout)
	for _, a := range attempts() {
		word := "holds"
		open, how := a.try(&t)
		if open {
			word = "open"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\n", a.name, word, strings.ReplaceAll(how, "\n", " "))
		out.Flush() //nolint:errcheck // who reads has gone, and ends this
	}
	fmt.Fprintln(out, "ready")
	out.Flush() //nolint:errcheck // as above
	time.Sleep(5 * time.Minute)
	return 0
}

// tryAlone tries what needs a process of its own. Its status is 0 where that is open; what it prints is how.
func tryAlone(args []string) int {
	t := parse(args[1:])
	open, how := false, "unknown attempt"
	switch args[0] {
	case "nothing":
		open, how = true, "a process was started there"
	case "chroot":
		open, how = leaveRoot(&t)
	}
	fmt.Print(how)
	if open {
		return 0
	}
	return 1
}

// alone runs tryAlone in another process, with namespaces of its own where flags ask for them.
func alone(what string, t *Target, flags uintptr) (bool, string) {
	cmd := exec.Command("/proc/self/exe", append([]string{"probe", "try", what}, t.Args()...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flags}
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		return false, err.Error()
	}
	return err == nil, string(out)
}

// verdict is of an attempt that the kernel must refuse: nil is the way out.
func verdict(err error, success string) (bool, string) {
	if err == nil {
		return true, success
	}
	return false, err.Error()
}

// told reports whether what was read is the token.
func (t *Target) told(data []byte) bool {
	return t.Token != "" && bytes.Contains(data, []byte(t.Token))
}

// processes are those that are to be seen, without this one and its children.
func processes() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// victim is the process of the host's that was made to be attacked; 0: it is not to be seen.
func (t *Target) victim() int {
	for _, pid := range processes() {
		line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && t.told(line) && bytes.Contains(line, []byte("\x00victim\x00")) {
			return pid
		}
	}
	return 0
}

const unseen = "no process of the host's is to be seen"
