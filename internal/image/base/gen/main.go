// Command gen makes the base image from Debian's package busybox-static. The same package gives the same bytes.
//
//	go run ./internal/image/base/gen [-o FILE]
//
// Run it from the top folder of the source tree, on the kind of machine that the image is for.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/gzip"
)

func main() {
	out := flag.String("o", "internal/image/base/data/base.tar.gz", "write the image to `FILE`")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	box, err := installed()
	if err != nil {
		return err
	}
	tar, err := build(box)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(tar)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(out); err == nil && bytes.Equal(old, packed.Bytes()) {
		return nil // keep the file's time: go need not link again
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	tmp := out + ".tmp"
	if err := os.WriteFile(tmp, packed.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, out)
}

// installed reads the package as it is installed on this machine.
func installed() (busybox, error) {
	const program = "/bin/busybox"
	missing := errors.New("Debian's package busybox-static is needed: apt-get install busybox-static")
	version, err := exec.Command("dpkg-query", "-W", "-f=${Version}", "busybox-static").Output()
	if err != nil || len(version) == 0 {
		return busybox{}, missing
	}
	b := busybox{version: string(version), arch: runtime.GOARCH}
	info, err := os.Stat(program)
	if err != nil {
		return b, missing
	}
	b.date = info.ModTime().UTC() // of the package's last change: the same on every machine
	if b.program, err = os.ReadFile(program); err != nil {
		return b, err
	}
	if b.copyright, err = os.ReadFile("/usr/share/doc/busybox-static/copyright"); err != nil {
		return b, fmt.Errorf("the licence text of busybox-static: %w", err)
	}
	list, err := exec.Command(program, "--list-full").Output()
	if err != nil {
		return b, fmt.Errorf("%s --list-full: %w", program, err)
	}
	b.applets = strings.Fields(string(list))
	return b, nil
}
