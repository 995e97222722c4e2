package oci

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnThreadSparesTheMainThread: Go parks the main thread instead of ending it, so that it would keep a container's namespaces.
func TestOnThreadSparesTheMainThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("new namespaces need root")
	}
	home, err := os.Readlink("/proc/self/ns/uts") // the main thread's
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		boom := errors.New("boom")
		err := onThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("on the main thread, which is never ended")
				return boom
			}
			if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
				t.Error(err)
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("got %v, want the function's error", err)
		}
		runtime.Gosched()
	}
	if now, err := os.Readlink("/proc/self/ns/uts"); err != nil || now != home {
		t.Errorf("the main thread is in %s (%v), was in %s", now, err, home)
	}
}
