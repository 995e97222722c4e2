package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestJournald reads back by `brig logs` what the log driver journald has sent to the guest's journal, beside what journalctl itself finds.
func TestJournald(t *testing.T) {
	if !Rerun(t) {
		return
	}
	dir := t.TempDir()
	brig := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(os.Getenv(binEnv), "brig"), append([]string{"--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state")}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("brig %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	defer brig("system", "reset", "--force")
	id := strings.TrimSpace(brig("run", "-d", "--name", "web", "--network", "none", "--log-driver", "journald", "brig/base",
		"sh", "-c", `echo one; sleep 1; echo two >&2; sleep 1; printf '\377\n'; until [ -e /go ]; do sleep 0.1; done; echo three; printf four`))
	logs := func(want string, args ...string) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			if got = brig(append(append([]string{"logs"}, args...), "web")...); got == want {
				return
			}
		}
		t.Errorf("logs %q: %q, want %q", args, got, want)
	}
	logs("one\ntwo\n\xff\n")
	logs("\xff\n", "-n", "1")
	logs("", "--until", "1h")
	logs("", "--since", "2100-01-01")
	if got := brig("logs", "-t", "-n", "1", "web"); !regexp.MustCompile(`^2\d{3}-\d\d-\d\dT[0-9:.]+Z `).MatchString(got) || !strings.HasSuffix(got, " \xff\n") {
		t.Errorf("-t: %q", got)
	}
	followed := make(chan string)
	go func() { followed <- brig("logs", "-f", "web") }()
	time.Sleep(time.Second)
	brig("exec", "web", "touch", "/go")
	select {
	case got := <-followed:
		if !strings.HasSuffix(got, "three\nfour") {
			t.Errorf("-f: %q", got)
		}
	case <-time.After(2 * time.Minute):
		t.Error("-f did not end with the container")
	}
	out, err := exec.Command("journalctl", "-o", "cat", "CONTAINER_ID_FULL="+id).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "three\nfour") {
		t.Errorf("journalctl: %v, %q", err, out)
	}
}
