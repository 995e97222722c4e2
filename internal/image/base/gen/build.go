package main

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // for package digest
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// busybox is what the image is made of.
type busybox struct {
	version   string // of Debian's package
	arch      string // as Go names it
	date      time.Time
	program   []byte
	copyright []byte
	applets   []string // paths without the leading slash: bin/sh
}

const (
	imageName = "docker.io/brig/base:latest"
	searchEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	docDir    = "usr/share/doc/busybox-static/"
)

// file is an entry of the root file system. A path that ends in a slash is a folder.
type file struct {
	mode int64
	data string
	link string // symbolic
}

// build makes the image as the bytes of an OCI archive.
func build(b busybox) ([]byte, error) {
	layer, err := pack(rootfs(b), b.date)
	if err != nil {
		return nil, err
	}
	layerDigest := digest.FromBytes(layer)
	config, err := json.Marshal(imagespec.Image{
		Created:  &b.date,
		Platform: imagespec.Platform{OS: "linux", Architecture: b.arch},
		Config: imagespec.ImageConfig{
			Env: []string{searchEnv},
			Cmd: []string{"sh"},
			Labels: map[string]string{
				imagespec.AnnotationTitle:    "Brig base: BusyBox for trying things out",
				imagespec.AnnotationLicenses: "GPL-2.0-only",
				imagespec.AnnotationSource:   sourceURL(b.version),
				imagespec.AnnotationVersion:  b.version,
			},
		},
		RootFS:  imagespec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDigest}},
		History: []imagespec.History{{Created: &b.date, CreatedBy: "Debian busybox-static " + b.version}},
	})
	if err != nil {
		return nil, err
	}
	describe := func(mediaType string, b []byte) imagespec.Descriptor {
		return imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	manifest, err := json.Marshal(imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imagespec.MediaTypeImageManifest,
		Config:    describe(imagespec.MediaTypeImageConfig, config),
		Layers:    []imagespec.Descriptor{describe(imagespec.MediaTypeImageLayer, layer)}, // the whole archive is packed instead
	})
	if err != nil {
		return nil, err
	}
	top := describe(imagespec.MediaTypeImageManifest, manifest)
	top.Annotations = map[string]string{imagespec.AnnotationRefName: imageName}
	index, err := json.Marshal(imagespec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imagespec.MediaTypeImageIndex,
		Manifests: []imagespec.Descriptor{top},
	})
	if err != nil {
		return nil, err
	}
	blob := func(b []byte) string { return "blobs/sha256/" + digest.FromBytes(b).Encoded() }
	return pack(map[string]file{
		"oci-layout":   {mode: 0o644, data: `{"imageLayoutVersion":"1.0.0"}`},
		"index.json":   {mode: 0o644, data: string(index)},
		blob(manifest): {mode: 0o644, data: string(manifest)},
		blob(config):   {mode: 0o644, data: string(config)},
		blob(layer):    {mode: 0o644, data: string(layer)},
	}, b.date)
}

// rootfs is the image's one layer.
func rootfs(b busybox) map[string]file {
	files := map[string]file{
		"dev/": {mode: 0o755}, "proc/": {mode: 0o555}, "sys/": {mode: 0o555}, "run/": {mode: 0o755}, "home/": {mode: 0o755}, "mnt/": {mode: 0o755},
		"root/": {mode: 0o700}, "tmp/": {mode: 0o1777}, "var/log/": {mode: 0o755}, "var/tmp/": {mode: 0o1777}, "usr/local/bin/": {mode: 0o755},
		"var/run": {link: "/run"},

		"bin/busybox":        {mode: 0o755, data: string(b.program)},
		docDir + "copyright": {mode: 0o644, data: string(b.copyright)},
		docDir + "NOTICE": {mode: 0o644, data: "BusyBox is free software under the GNU General Public License, version 2; see the file copyright.\n" +
			"The program in this image is /bin/busybox of Debian's package busybox-static " + b.version + ", unchanged.\n" +
			"Its source code: " + sourceURL(b.version) + ", or apt-get source busybox=" + sourceVersion(b.version) + " on a Debian system.\n"},

		"etc/passwd": {mode: 0o644, data: "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"},
		"etc/group":  {mode: 0o644, data: "root:x:0:\ndaemon:x:1:\nadm:x:4:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"},
		"etc/shadow": {mode: 0o640, data: "root:*:::::::\n"},
		"etc/hosts":  {mode: 0o644, data: "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"},
		// Places for what an engine mounts there: making them in every container would copy /etc up.
		"etc/hostname":      {mode: 0o644},
		"etc/resolv.conf":   {mode: 0o644},
		"etc/nsswitch.conf": {mode: 0o644, data: "passwd: files\ngroup: files\nhosts: files dns\n"},
		"etc/profile":       {mode: 0o644, data: "export " + searchEnv + "\numask 022\n"},
		"etc/os-release": {mode: 0o644, data: "NAME=\"Brig base\"\nID=brig-base\nPRETTY_NAME=\"Brig base (BusyBox " + b.version + ")\"\nVERSION_ID=\"" +
			b.version + "\"\n"},
	}
	for _, p := range b.applets {
		if p = path.Clean("/" + p)[1:]; p != "" && p != "bin/busybox" && !strings.HasPrefix(p, "linuxrc") {
			files[p] = file{link: strings.Repeat("../", strings.Count(p, "/")) + "bin/busybox"} // it leads there from wherever the root is mounted
		}
	}
	return files
}

// sourceVersion is the version of the source package: what a mere rebuild appended is not part of it.
func sourceVersion(version string) string {
	if i := strings.Index(version, "+b"); i > 0 {
		return version[:i]
	}
	return version
}

func sourceURL(version string) string {
	v := sourceVersion(version)
	if _, after, ok := strings.Cut(v, ":"); ok { // the epoch is not in the address
		v = after
	}
	return "https://sources.debian.org/src/busybox/" + v + "/"
}

// pack makes a tar: sorted, owned by root, of one date, with all parent folders.
func pack(files map[string]file, date time.Time) ([]byte, error) {
	all := map[string]file{}
	for name, f := range files {
		all[name] = f
		for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "."; dir = path.Dir(dir) {
			if _, ok := files[dir+"/"]; !ok {
				all[dir+"/"] = file{mode: 0o755}
			}
		}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names) // a folder comes before what is in it
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		f := all[name]
		h := &tar.Header{Name: name, Mode: f.mode, Size: int64(len(f.data)), ModTime: date.Truncate(time.Second), Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
