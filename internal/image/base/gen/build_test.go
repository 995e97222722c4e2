package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"brig/internal/image"
	"brig/internal/image/archive"
)

func sample() busybox {
	return busybox{version: "1:1.35.0-4+deb12u1+b1", arch: "amd64", date: time.Unix(1700000000, 123).UTC(), program: []byte("ELF"), copyright: []byte("GPL"),
		applets: []string{"bin/busybox", "bin/sh", "usr/bin/wget", "linuxrc", "sbin/ip"}}
}

func TestBuildIsDeterministic(t *testing.T) {
	a, err := build(sample())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if b, err := build(sample()); err != nil || !bytes.Equal(a, b) {
			t.Fatal("other bytes from the same package", err)
		}
	}
}

// TestBuild reads the image back as brig-image does, and its files as an unpacker does.
func TestBuild(t *testing.T) {
	b, err := build(sample())
	if err != nil {
		t.Fatal(err)
	}
	l, err := archive.New(bytes.NewReader(b), "base")
	if err != nil {
		t.Fatal(err)
	}
	if e := l.Entries(); len(e) != 1 || e[0].Name != imageName {
		t.Fatalf("%+v", e)
	}
	p, _ := image.ParsePlatform("linux/amd64")
	img, err := image.Resolve(context.Background(), l, l.Entries()[0].Target, p)
	if err != nil {
		t.Fatal(err)
	}
	if c := img.Config; c.Cmd[0] != "sh" || c.Env[0] != searchEnv || c.Labels["org.opencontainers.image.licenses"] != "GPL-2.0-only" ||
		c.Labels["org.opencontainers.image.source"] != "https://sources.debian.org/src/busybox/1.35.0-4+deb12u1/" {
		t.Errorf("%+v", c)
	}
	r, err := img.Open(context.Background(), img.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	headers, contents := map[string]*tar.Header{}, map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		if dir := strings.TrimSuffix(h.Name, "/"); strings.Contains(dir, "/") && headers[dir[:strings.LastIndex(dir, "/")+1]] == nil {
			t.Errorf("%s comes before its folder", h.Name)
		}
		data, _ := io.ReadAll(tr)
		headers[h.Name], contents[h.Name] = h, string(data)
	}
	for name, mode := range map[string]int64{"tmp/": 0o1777, "root/": 0o700, "bin/busybox": 0o755, "etc/passwd": 0o644, "proc/": 0o555, "usr/share/doc/busybox-static/copyright": 0o644} {
		if h := headers[name]; h == nil || h.Mode != mode {
			t.Errorf("%s: %+v", name, h)
		}
	}
	for _, name := range []string{"bin/sh", "usr/bin/wget", "sbin/ip"} {
		if h := headers[name]; h == nil || path.IsAbs(h.Linkname) || path.Join(path.Dir(name), h.Linkname) != "bin/busybox" {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if headers["linuxrc"] != nil || headers["bin/busybox"].Linkname != "" {
		t.Error("linuxrc, or BusyBox as a link to itself")
	}
	if !strings.Contains(contents["etc/os-release"], `NAME="Brig base"`) || !strings.Contains(contents["usr/share/doc/busybox-static/NOTICE"], "sources.debian.org") || contents["bin/busybox"] != "ELF" {
		t.Error("contents")
	}
}

// TestInstalled makes the real image twice, where the package is installed.
func TestInstalled(t *testing.T) {
	box, err := installed()
	if err != nil {
		t.Skip(err)
	}
	if len(box.applets) < 200 {
		t.Errorf("%d applets", len(box.applets))
	}
	out := t.TempDir() + "/data/base.tar.gz"
	for range 2 {
		if err := run(out); err != nil {
			t.Fatal(err)
		}
	}
}
