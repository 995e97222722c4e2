package script

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// cmdUDPEcho serves "got TEXT" for TEXT on a port inside the network of the container, whose first process's ID stands in a file.
// It is the container's network that is tested; the base image has no UDP server of its own.
func cmdUDPEcho(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: udpecho PIDFILE PORT")
	}
	conn, err := listenIn(strings.TrimSpace(ts.ReadFile(args[0])), ":"+args[1])
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	go echo(conn)
}

// echo answers what comes, to the end of the connection.
func echo(conn net.PacketConn) error {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		_, _ = conn.WriteTo(append([]byte("got "), buf[:n]...), from)
	}
}

// echoProgram is `$TEST_PROGRAM udp-echo PORT`, in a container, whatever its level.
func echoProgram() {
	if len(os.Args) != 3 || os.Args[1] != "udp-echo" {
		return
	}
	conn, err := net.ListenPacket("udp", ":"+os.Args[2])
	if err == nil {
		fmt.Println("it listens")
		err = echo(conn)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// listenIn opens a UDP socket in the network namespace of process pid. The thread that went there is not used again.
func listenIn(pid, address string) (conn net.PacketConn, err error) {
	err = machine.OnThread(func() error {
		ns, err := os.Open("/proc/" + pid + "/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network of process %s: %w", pid, err)
		}
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	return conn, err
}

// cmdUDPAsk sends TEXT and prints the answer.
func cmdUDPAsk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: udpask ADDRESS TEXT")
	}
	conn, err := net.Dial("udp", args[0])
	ts.Check(err)
	defer conn.Close()
	buf := make([]byte, 1500)
	for range 5 { // UDP may lose a datagram
		_, err = conn.Write([]byte(args[1]))
		if err == nil {
			ts.Check(conn.SetReadDeadline(time.Now().Add(time.Second)))
			var n int
			if n, err = conn.Read(buf); err == nil {
				fmt.Fprintf(ts.Stdout(), "%s\n", buf[:n])
				return
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(100 * time.Millisecond)
		}
	}
	ts.Fatalf("%s does not answer: %v", args[0], err)
}
