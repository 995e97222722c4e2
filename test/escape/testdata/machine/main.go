// Command machine is the first program of a virtual machine that an attacker has taken over, in the place of Brig's agent: it speaks to the monitor as the container's last
// argument says, attack:NAME. It is built without Brig's own code, of which an attacker's would not be either.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	err := run()
	fmt.Println("the attacker is done:", err)
	end()
}

// end ends the machine.
func end() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func run() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return err
		}
	}
	port, err := open()
	if err != nil {
		return err
	}
	m := machine{port}
	m.say('h', 0, 1, 0, 0, 0)
	for {
		kind, stream, body, err := m.hear()
		if err != nil {
			return err
		}
		if kind != 'S' {
			continue
		}
		_, name, _ := strings.Cut(string(body), "attack:")
		name, _, _ = strings.Cut(name, `"`)
		attack := attacks[name]
		if attack == nil {
			return fmt.Errorf("there is no attack %q", name)
		}
		if err := attack(m, stream); err != nil {
			return err
		}
	}
}

func open() (*os.File, error) {
	for range 1000 {
		ports, _ := filepath.Glob("/dev/vport*")
		if len(ports) > 0 {
			fd, err := unix.Open(ports[0], unix.O_RDWR, 0)
			return os.NewFile(uintptr(fd), "port"), err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil, os.ErrNotExist
}

type machine struct{ port *os.File }

// say sends a frame: kind, stream, length, body.
func (m machine) say(kind byte, stream uint32, body ...byte) {
	b := binary.LittleEndian.AppendUint32([]byte{kind}, stream)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	m.port.Write(append(b, body...))
}

func (m machine) hear() (kind byte, stream uint32, body []byte, err error) {
	var h [9]byte
	if _, err = io.ReadFull(m.port, h[:]); err != nil {
		return
	}
	body = make([]byte, binary.LittleEndian.Uint32(h[5:]))
	_, err = io.ReadFull(m.port, body)
	return h[0], binary.LittleEndian.Uint32(h[1:]), body, err
}

// attacks are done when the monitor asks for a process on a stream.
var attacks = map[string]func(m machine, stream uint32) error{
	"garbage": func(m machine, _ uint32) error {
		for {
			m.port.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		}
	},
	"huge": func(m machine, stream uint32) error { // a frame of 4 GiB is announced, and more and more of it comes
		m.port.Write([]byte{'o', byte(stream), 0, 0, 0, 255, 255, 255, 255})
		for {
			m.port.Write(make([]byte, 64<<10))
		}
	},
	"early": func(m machine, stream uint32) error {
		m.say('o', stream, []byte("before its process")...)
		return wait()
	},
	"wrong": func(m machine, stream uint32) error { // the end of a process that was never asked for
		m.say('s', stream)
		m.say('x', stream+76, 0, 0, 0)
		return wait()
	},
	"words": func(m machine, stream uint32) error { // an explanation that would steer a terminal
		m.say('f', stream, []byte("\x00evil\x1b[2J\x1b]0;title\x07\r\nbrig: all is well\n")...)
		return wait()
	},
	"dies": func(m machine, stream uint32) error {
		m.say('s', stream)
		time.Sleep(200 * time.Millisecond)
		end()
		return nil
	},
	"panics": func(m machine, stream uint32) error {
		m.say('s', stream)
		os.Exit(1) // of process 1
		return nil
	},
	"hangs": func(m machine, stream uint32) error { // it runs, and hears nothing any more
		m.say('s', stream)
		return wait()
	},
	"floods": func(m machine, stream uint32) error { // the console, questions about names, and output as far as there is credit
		m.say('s', stream)
		console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		line := bytes.Repeat([]byte("\x1b[2Jflood "), 400)
		go func() {
			for {
				console.Write(line)
			}
		}()
		for i := uint32(0); ; i++ {
			m.say('a', i, append([]byte{byte(i % 2)}, line...)...)
		}
	},
	"lists": func(m machine, stream uint32) error { // asked for the processes in it, it makes some up
		m.say('s', stream)
		for {
			kind, stream, _, err := m.hear()
			if err != nil {
				return err
			}
			if kind == 'S' {
				m.say('s', stream)
				m.say('o', stream, []byte(`[{"PID":1,"Comm":"c\u001b[2J","Args":["made\u001b[2J\nup"],"Start":"1970-01-01T00:00:00Z","Status":{"Uid":"0"}}]`)...)
				m.say('x', stream, 0, 0, 0)
			}
		}
	},
	"tree": func(m machine, stream uint32) error { // what it leaves in the container's tree
		if err := mountTree(); err != nil {
			return err
		}
		for name, target := range map[string]string{"out": "/etc", "up": "../../../../../../../../etc", "hostname": "/etc/hostname", "loop": "loop"} {
			if err := os.Symlink(target, "/tree/"+name); err != nil {
				return err
			}
		}
		for _, name := range []string{"line\nbreak", "\x1b[2J", strings.Repeat("n", 255)} {
			if err := os.WriteFile("/tree/"+name, nil, 0o777); err != nil {
				return err
			}
		}
		if err := unix.Mkfifo("/tree/fifo", 0o666); err != nil {
			return err
		}
		m.say('s', stream)
		m.say('o', stream, []byte("left\n")...)
		return wait()
	},
	"fills": func(m machine, stream uint32) error {
		if err := mountTree(); err != nil {
			return err
		}
		f, err := os.Create("/tree/full")
		if err != nil {
			return err
		}
		m.say('s', stream)
		block := make([]byte, 1<<20)
		for err == nil {
			_, err = f.Write(block)
		}
		m.say('o', stream, []byte("full: "+err.Error()+"\n")...)
		return wait()
	},
}

func mountTree() error {
	if err := os.MkdirAll("/tree", 0o755); err != nil {
		return err
	}
	var err error
	for range 1000 { // the device of a machine that was saved comes when it runs already
		_ = os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0)
		if err = unix.Mount("root", "/tree", "virtiofs", 0, ""); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// wait does nothing more, for ever.
func wait() error {
	for {
		time.Sleep(time.Hour)
	}
}
