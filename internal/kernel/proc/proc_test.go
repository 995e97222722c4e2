package proc

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	// Fields 3 to 22 of proc_pid_stat(5); the start time is the last of these.
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 99 100"
	for _, c := range []struct {
		stat  string
		ticks uint64
		state byte
		fails bool
	}{
		{stat: "7 (sh)" + rest, ticks: 4242, state: 'S'},
		{stat: "7 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 77 (b)" + rest, ticks: 4242, state: 'S'}, // a name made to deceive
		{stat: "7 ()" + rest, ticks: 4242, state: 'S'},
		{stat: "7 (a\nb)" + rest, ticks: 4242, state: 'S'},
		{stat: "7 (sh) Z" + rest[2:], ticks: 4242, state: 'Z'},
		{stat: "", fails: true},
		{stat: "7 sh S 1 2", fails: true},
		{stat: "7 (sh) S 1 2 3", fails: true},
		{stat: "7 (sh)" + strings.Replace(rest, "4242", "-1", 1), fails: true},
		{stat: "7 (sh) RUNNING" + rest[2:], fails: true},
	} {
		ticks, state, err := parseStat([]byte(c.stat))
		if (err != nil) != c.fails || !c.fails && (ticks != c.ticks || state != c.state) {
			t.Errorf("%q: %d, %c, %v; want %d, %c, fails %v", c.stat, ticks, state, err, c.ticks, c.state, c.fails)
		}
	}
}

func TestAlive(t *testing.T) {
	me, err := StartTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !Alive(os.Getpid(), me) || Alive(os.Getpid(), me+1) {
		t.Error("this process is told apart from a later one with its number by nothing")
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	ticks, err := StartTicks(pid)
	if err != nil || ticks < me || !Alive(pid, ticks) {
		t.Errorf("child: start %d, %v; this process's %d", ticks, err, me)
	}
	cmd.Process.Kill()
	for deadline := time.Now().Add(5 * time.Second); Alive(pid, ticks); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a zombie is said to live")
		}
	}
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("it was waited for already (%v): the test does not see a zombie", err)
	}
	cmd.Wait()
	if Alive(pid, ticks) {
		t.Error("what has been waited for is said to live")
	}
	if _, err := StartTicks(pid); !os.IsNotExist(err) {
		t.Errorf("start time of a process that is gone: %v", err)
	}
}

func TestStartTicksIsNow(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	ticks, err := StartTicks(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	const hz = 100 // USER_HZ of every architecture that Go runs on
	if age := now.Sec - int64(ticks/hz); age < 0 || age > 5 {
		t.Errorf("the process just started is %d seconds old", age)
	}
}

func TestBootID(t *testing.T) {
	a := BootID()
	if len(a) != 36 || strings.Count(a, "-") != 4 || a != BootID() {
		t.Errorf("boot ID %s", strconv.Quote(a))
	}
}

func TestWriteThroughTheHandle(t *testing.T) {
	fd, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid, err := ThreadID(fd)
	if err != nil || tid != strconv.Itoa(unix.Gettid()) {
		t.Errorf("thread %s, %v; want %d", tid, err, unix.Gettid())
	}
	if err := Write(fd, tid+"/comm", "renamed"); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile("/proc/thread-self/comm"); string(got) != "renamed\n" {
		t.Errorf("comm is %q", got)
	}
	for name, want := range map[string]error{"thread-self/root/etc/passwd": unix.ELOOP, "../etc/passwd": unix.EXDEV, "no-such": unix.ENOENT} {
		if err := Write(fd, name, "x"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}
