package shim

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/runtime"
)

// TestDatagrams: a line arrives at journald's and at syslog's socket as those programs read it, also when they are started late or anew, and what nobody takes
// does not hold the writer up.
func TestDatagrams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for name, c := range map[string]struct {
		spec     runtime.LogSpec
		out, err string
	}{
		"journald": {runtime.LogSpec{Driver: api.LogJournald, Path: path, Tag: "CONTAINER_NAME=web\n"},
			"CONTAINER_NAME=web\nPRIORITY=6\nMESSAGE\n\x05\x00\x00\x00\x00\x00\x00\x00a\x00\xffbc\n", "CONTAINER_NAME=web\nPRIORITY=3\nMESSAGE\n\x01\x00\x00\x00\x00\x00\x00\x00e\n"},
		"syslog": {runtime.LogSpec{Driver: api.LogSyslog, Path: path, Tag: "web", Facility: 3}, "<30>T web: a\x00\xffbc", "<27>T web: e"},
	} {
		t.Run(name, func(t *testing.T) {
			l := openLog(c.spec)
			defer l.close()
			l.write(1, []byte("lost\n")) // nobody is there
			for range 2 {
				s, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
				if err != nil {
					t.Fatal(err)
				}
				_ = s.SetDeadline(time.Now().Add(10 * time.Second))
				l.write(1, []byte("a\x00"))
				l.write(1, []byte("\xffbc\n"))
				l.write(2, []byte("e\n"))
				for _, want := range []string{c.out, c.err} {
					b := make([]byte, 1000)
					n, err := s.Read(b)
					if err != nil {
						t.Fatal(err)
					}
					got := string(b[:n])
					if at := strings.Index(got, ">"); name == "syslog" && len(got) > at+16 {
						if _, err := time.Parse(time.Stamp, got[at+1:at+16]); err != nil {
							t.Error(err)
						}
						got = got[:at+1] + "T" + got[at+16:]
					}
					if got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				s.Close()
				os.Remove(path)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				s, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
				if err != nil {
					t.Error(err)
					return
				}
				defer os.Remove(path)
				defer s.Close()
				for range 10_000 { // it does not read
					l.write(1, []byte("a line that nobody takes\n"))
				}
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("the log waits for its reader")
			}
		})
	}
}
