package sigpipe

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The handlers stay, so the test is a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("SIGPIPE_CHILD") == "" {
		os.Exit(m.Run())
	}
	fd, err := Catch(All)
	if err != nil {
		os.Exit(1)
	}
	sent := []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGWINCH, unix.SIGTSTP, unix.SIGUSR1, unix.SIGABRT, 34, 64}
	busy := make(chan struct{})
	go func() { // on every kind of thread, in the midst of Go
		var kept [][]byte
		for {
			select {
			case <-busy:
				return
			default:
				if kept = append(kept, make([]byte, 1<<12)); len(kept) > 1000 {
					kept = nil
				}
			}
		}
	}()
	for round := range 200 {
		for _, s := range sent {
			unix.Kill(os.Getpid(), s)
		}
		got := map[unix.Signal]int{}
		for end := time.Now().Add(5 * time.Second); len(got) < len(sent) && time.Now().Before(end); {
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			for _, s := range Read(fd, nil) {
				got[s]++
			}
		}
		for _, s := range sent {
			if got[s] != 1 {
				println("round", round, "signal", int(s), "came", got[s], "times")
				os.Exit(2)
			}
		}
	}
	close(busy)
	os.Exit(0)
}

func TestEverySignalComesOnce(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SIGPIPE_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
