package network

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"brig/api"
)

func TestCarrier(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, mode := range []string{"", modePasta, modeSlirp} {
		if _, err := carrier(mode); !errors.Is(err, api.Unsupported) {
			t.Errorf("%q: %v", mode, err)
		}
	}
	if err := os.WriteFile(os.Getenv("PATH")+"/slirp4netns", nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if p, err := carrier(""); err != nil || p.name != modeSlirp {
		t.Error(p.name, err)
	}
	if err := os.WriteFile(os.Getenv("PATH")+"/pasta", nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if p, err := carrier(""); err != nil || p.name != modePasta {
		t.Error(p.name, err)
	}
	if p, err := carrier(modeSlirp); err != nil || p.name != modeSlirp {
		t.Error(p.name, err)
	}
}

func TestPastaSaid(t *testing.T) {
	if got := pastaSaid("Failed to send 7 bytes to syslog\nNo external routable interface for IPv6\n\nFailed to bind\n"); got != "No external routable interface for IPv6; Failed to bind" {
		t.Error(got)
	}
}

// TestEndHelper: the process that the file names is ended only if it is the one that was started with that file; and that one also where whoever started it was killed
// before its number stood there.
func TestEndHelper(t *testing.T) {
	m := Open(t.TempDir(), t.TempDir())
	if err := os.MkdirAll(m.path("helper"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ mine, noted bool }{{true, true}, {false, true}, {true, false}, {false, false}} {
		mine := c.mine
		id := "c" + strconv.FormatBool(mine) + strconv.FormatBool(c.noted)
		arg := m.path("helper", "other")
		if mine {
			arg = m.path("helper", id)
		}
		cmd := exec.Command("sh", "-c", "read x", "pasta", "--pid", arg, "--netns")
		hold, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		note := ""
		if c.noted {
			note = strconv.Itoa(cmd.Process.Pid) + "\n"
		}
		if err := os.WriteFile(m.path("helper", id), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.endHelper(id); err != nil {
			t.Error(err)
		}
		hold.Close()
		cmd.Wait()
		if killed := !cmd.ProcessState.Exited(); killed != mine {
			t.Errorf("mine %t, killed %t", mine, killed)
		}
		if err := m.endHelper(id); err != nil { // again
			t.Error(err)
		}
	}
}
