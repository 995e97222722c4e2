package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}` + "\n"

// peer is QEMU as somebody wrote it: it says the lines, one after each command that it gets, the first at once.
func peer(t *testing.T, lines ...string) *net.UnixConn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "qmp")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	ours, theirs := conn(fds[0]), conn(fds[1])
	go func() {
		defer theirs.Close()
		in := bufio.NewScanner(theirs)
		for i, line := range lines {
			if i > 0 && !in.Scan() {
				return
			}
			if _, err := theirs.Write([]byte(line)); err != nil {
				return
			}
		}
		in.Scan()
	}()
	return ours
}

func TestDo(t *testing.T) {
	q, err := Dial(peer(t, greeting, `{"return": {}}`+"\n", `{"event": "STOP"}`+"\n"+`{"return": {"status": "paused"}}`+"\n", `{"error": {"class": "GenericError", "desc": "no\u0007such"}}`+"\n"), time.Now().Add(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var got struct{ Status string }
	if err := q.Do("query-status", nil, &got); err != nil || got.Status != "paused" {
		t.Errorf("%+v, %v", got, err)
	}
	var own *Error
	if err := q.Do("device_add", map[string]any{"driver": "x"}, nil); !errors.As(err, &own) || own.Class != "GenericError" || strings.Contains(err.Error(), "\a") {
		t.Errorf("%v", err)
	}
}

// TestHostile has a QEMU that has been taken over answer whatever it likes: an error comes of it, in bounded time and memory.
func TestHostile(t *testing.T) {
	ok := `{"return": {}}` + "\n"
	for name, lines := range map[string][]string{
		"nothing":         {""},
		"no greeting":     {"{}\n"},
		"not JSON":        {"hello\n"},
		"endless line":    {strings.Repeat("x", maxLine+1)},
		"deep":            {strings.Repeat("[", 100_000) + "\n"},
		"events only":     {greeting, strings.Repeat(`{"event": "X"}`+"\n", maxEvents+1)},
		"no answer":       {greeting, "{}\n"},
		"null":            {greeting, "null\n"},
		"error of no use": {greeting, `{"error": {"desc": 3}}` + "\n"},
		"another type":    {greeting, ok, `{"return": [1]}` + "\n"},
		"half a line":     {greeting, ok, `{"return": `},
		"silence":         {greeting, ok, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := Dial(peer(t, lines...), time.Now().Add(500*time.Millisecond))
			if err != nil {
				return
			}
			defer q.Close()
			if err := q.Do("query-status", nil, &struct{ Status string }{}); err == nil {
				t.Error("it was believed")
			}
		})
	}
}

// TestDescriptors passes one along with a command.
func TestDescriptors(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "qmp")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := &Client{c: c.(*net.UnixConn), r: bufio.NewReader(c)}
	fmt.Fprint(os.NewFile(uintptr(must(unix.Dup(fds[1]))), "peer"), `{"return": {}}`+"\n")
	if err := q.Do("getfd", map[string]any{"fdname": "state"}, nil, 0); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 4096), make([]byte, 64)
	n, m, _, _, err := unix.Recvmsg(fds[1], buf, oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Execute string }
	if err := json.Unmarshal(buf[:n], &got); err != nil || got.Execute != "getfd" {
		t.Errorf("%s: %v", buf[:n], err)
	}
	rights, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(rights) != 1 {
		t.Fatalf("%d descriptors: %v", len(rights), err)
	}
	if got, err := unix.ParseUnixRights(&rights[0]); err != nil || len(got) != 1 {
		t.Errorf("%v: %v", got, err)
	} else {
		unix.Close(got[0])
	}
}

func must(fd int, err error) int {
	if err != nil {
		panic(err)
	}
	return fd
}
