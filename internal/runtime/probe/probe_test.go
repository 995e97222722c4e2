package probe

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestProbesCanTell has those attempts find what is there to be found, for which no container is needed: each is told from nothing.
func TestProbesCanTell(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("token-of-the-test"))
			c.Close()
		}
	}()
	target := parse([]string{"token=token-of-the-test", "secret=" + secret, "port=" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port), "abstract=nobody", "key=none"})
	try := func(name string, want bool) {
		t.Helper()
		for _, a := range attempts() {
			if a.name == name {
				if open, how := a.try(&target); open != want {
					t.Errorf("%s: open %t (%s), want %t", name, open, how, want)
				}
				return
			}
		}
		t.Errorf("no attempt is called %s", name)
	}
	if os.Getuid() == 0 {
		try("host-files-proc", false)
		if err := os.WriteFile(secret, []byte(target.Token), 0o600); err != nil {
			t.Fatal(err)
		}
		try("host-files-proc", true)
	}
	try("host-loopback", true)
	try("abstract-socket", false)
	target.Token = "another"
	try("host-loopback", false)

	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	try("descriptors", true)
	f.Close()
}

// TestVictim: a process is found by its token only, and is hit.
func TestVictim(t *testing.T) {
	cmd := exec.Command(os.Args[0], "probe", "victim", "token-of-the-victim")
	cmd.Env = append(os.Environ(), "BRIG_TEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	none := Target{Token: "no-such-token"}
	if open, how := killVictim(&none); open || how != unseen {
		t.Errorf("another's victim: %t, %s", open, how)
	}
	target := Target{Token: "token-of-the-victim"}
	if open, how := killVictim(&target); !open {
		t.Errorf("the victim: %s", how)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != Hit {
		t.Errorf("the victim ended with %d, want %d", code, Hit)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("BRIG_TEST_VICTIM") != "" {
		os.Exit(Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// TestNames: no two attempts have one name, and none breaks the form of a line.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range attempts() {
		if seen[a.name] || strings.ContainsAny(a.name, "\t\n ") {
			t.Errorf("name %q", a.name)
		}
		seen[a.name] = true
	}
}
