package delegated

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"brig/internal/kernel/cgroup"
	"brig/test/guest"
	"brig/test/machine"
)

// joinEnv has this program join what it finds, and say what that is and where it is then.
const joinEnv = "BRIG_TEST_JOIN"

func TestMain(m *testing.M) {
	if os.Getenv(joinEnv) == "" {
		os.Exit(m.Run())
	}
	if err := join(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func join() error {
	t, err := Find(os.Getuid(), os.Getenv(joinEnv))
	if err != nil {
		return err
	}
	if err := t.Join(); err != nil {
		return err
	}
	l, err := cgroup.Detect()
	if err != nil {
		return err
	}
	own, err := l.Own()
	if err != nil {
		return err
	}
	down, err := os.ReadFile(l.Dir(t.Base) + "/cgroup.subtree_control")
	fmt.Printf("base=%s scope=%t own=%s offered=%s down=%s\n", t.Base, t.Scope, own, strings.Join(t.Controllers, ","), strings.Join(strings.Fields(string(down)), ","))
	return err
}

// TestJoin starts this program in units of all kinds, as a user whose systemd runs.
func TestJoin(t *testing.T) {
	if !guest.Rerun(t) {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	uid := strconv.Itoa(machine.UserID)
	manager := "/user.slice/user-" + uid + ".slice/user@" + uid + ".service"
	user := []string{"setpriv", "--reuid=" + uid, "--regid=" + uid, "--clear-groups", "env", "XDG_RUNTIME_DIR=/run/user/" + uid, joinEnv + "=/state"}
	set := []string{"--quiet", "--collect", "--wait", "--pipe", "-E", joinEnv + "=/state", "-E", "XDG_RUNTIME_DIR=/run/user/" + uid}
	scope := manager + "/user.slice/" + scopeName("/state")
	for _, c := range []struct {
		name string
		argv []string
		want string
	}{
		{"no unit of the user's", user, "base=" + scope + " scope=true own=" + scope + "/brig-keepers offered=cpuset,cpu,io,memory,pids down=cpuset,cpu,io,memory,pids"},
		{"a unit that is systemd's", append(append(user, "systemd-run", "--user"), set...), "base=" + scope + " scope=true own=" + scope + "/brig-keepers"},
		{"a delegated unit of the user's, which Debian 12's systemd does not mark", append(append(user, "systemd-run", "--user", "-p", "Delegate=yes"), set...),
			"base=(" + scope + " scope=true|" + manager + "/app.slice/run-u[0-9]+.service scope=false) own=.*/brig-keepers offered=cpuset,cpu,io,memory,pids down=cpuset,cpu,io,memory,pids"},
		{"a delegated unit of the machine's", append([]string{"systemd-run", "--uid=" + uid, "-p", "Delegate=memory pids"}, set...),
			"base=/system.slice/run-u[0-9]+.service scope=false own=/system.slice/run-u[0-9]+.service/brig-keepers offered=.*memory,pids down=.*memory,pids"},
		{"a unit of the machine's", append([]string{"systemd-run", "--uid=" + uid}, set...), "base=" + scope + " scope=true own=" + scope + "/brig-keepers"},
		{"two at a time", append(user, "sh", "-c", `for i in 1 2 3 4 5 6; do "$0" & done; wait`), "(base=" + scope + " scope=true own=" + scope + "/brig-keepers .*\\s){6}"},
	} {
		out, err := exec.Command(c.argv[0], append(c.argv[1:], self)...).CombinedOutput()
		if err != nil || !regexp.MustCompile("^"+c.want).Match(out) {
			t.Errorf("%s: %v\n%swant %s", c.name, err, out, c.want)
		}
	}
}
