package machine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Dial reports whether a server answers on a Unix socket.
func Dial(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// StartDaemon starts a long-lived program whose output goes to a file in dir, and waits until the socket answers, half a minute at most.
// stop ends it by its process ID, 20 s after SIGTERM by force. It is to be called whether there is an error or not.
func StartDaemon(dir, socket string, argv ...string) (stop func(), err error) {
	stop = func() {}
	log, err := os.Create(filepath.Join(dir, filepath.Base(argv[0])+".log"))
	if err != nil {
		return stop, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return stop, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	stop = func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	}
	for range 300 {
		select {
		case err := <-done:
			done <- err // for the one who ends it
			if err == nil {
				return stop, fmt.Errorf("%s ended at once", argv[0])
			}
			text, _ := os.ReadFile(log.Name())
			return stop, fmt.Errorf("%s ended: %w: %s", argv[0], err, text[max(0, len(text)-400):])
		case <-time.After(100 * time.Millisecond):
		}
		if Dial(socket) {
			return stop, nil
		}
	}
	return stop, fmt.Errorf("%s does not answer on %s after 30 s", argv[0], socket)
}
