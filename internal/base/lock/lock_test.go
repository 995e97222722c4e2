package lock

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestMain lets this program stand in for another process: it takes the lock named in the environment, says so, and waits to be killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("BRIG_LOCK_TEST"); path != "" {
		l, err := Take(path)
		if err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		time.Sleep(time.Minute)
		l.Release()
	}
	os.Exit(m.Run())
}

func TestTryAndRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if Held(path) {
		t.Error("a missing file is held")
	}
	l, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path); !errors.Is(err, ErrHeld) {
		t.Errorf("second Try: %v, want ErrHeld", err)
	}
	if !Held(path) {
		t.Error("Held does not see it")
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v; want mode 0600", st.Mode(), err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if Held(path) {
		t.Error("held after Release")
	}
	if again, err := Try(path); err != nil {
		t.Errorf("Try after Release: %v", err)
	} else {
		again.Release()
	}
}

func TestSharedKeepsOutOnlyTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, err := Shared(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	b, err := Shared(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if _, err := Try(path); !errors.Is(err, ErrHeld) {
		t.Errorf("Try beside shares: %v, want ErrHeld", err)
	}
}

// TestDeathFrees: the kernel gives the lock of a killed process to who waits.
func TestDeathFrees(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BRIG_LOCK_TEST="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	if !Held(path) {
		t.Error("the other process's lock is not seen")
	}
	took := make(chan error)
	go func() {
		l, err := Take(path)
		if err == nil {
			l.Release()
		}
		took <- err
	}()
	select {
	case err := <-took:
		t.Fatalf("Take returned while the other process held it: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := <-took; err != nil {
		t.Error(err)
	}
}

// TestRemovedFileIsNoLock: who waited for a file that was removed meanwhile must not hold the lock of a file that nobody else sees.
func TestRemovedFileIsNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	var holders int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			l, err := Take(path)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			if holders++; holders > 1 {
				t.Errorf("%d hold the lock at the same time", holders)
			}
			mu.Unlock()
			time.Sleep(5 * time.Millisecond)
			mu.Lock()
			holders--
			mu.Unlock()
			os.Remove(path) // as who cleans up does, while it holds the lock
			l.Release()
		})
	}
	time.Sleep(20 * time.Millisecond)
	os.Remove(path)
	first.Release()
	all.Wait()
}

func TestNone(t *testing.T) {
	if err := None().Release(); err != nil {
		t.Error(err)
	}
	if _, err := Take(filepath.Join(t.TempDir(), "gone", "lock")); !os.IsNotExist(err) {
		t.Errorf("in a missing folder: %v", err)
	}
}
