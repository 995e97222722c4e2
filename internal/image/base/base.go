// Package base carries the image brig/base: a static BusyBox with the few files that a small system has, so that Brig runs something
// without a registry.
//
// The archive data/base.tar.gz is made by "go run ./internal/image/base/gen" from Debian's package busybox-static and is not part of the
// source tree; a program built without it says so when asked for the image. Names below brig/base never go to a registry.
package base

import (
	"bytes"
	"embed"
	"errors"
	"io/fs"

	"github.com/klauspost/compress/gzip"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/archive"
	"brig/internal/image/ref"
)

// Name is the full reference of the image.
const Name = "docker.io/brig/base:latest"

const archiveFile = "data/base.tar.gz"

//go:embed data
var data embed.FS

// Is reports whether r is the embedded image's, with whatever tag or digest.
func Is(r ref.Ref) bool { return r.Name() == "docker.io/brig/base" }

// Open opens the embedded archive and returns its one image.
func Open(r ref.Ref) (image.Lister, image.Entry, error) { return open(data, r) }

func open(files fs.FS, r ref.Ref) (image.Lister, image.Entry, error) {
	var none image.Entry
	packed, err := fs.ReadFile(files, archiveFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, none, api.Errorf(api.NotFound, "image %s: this build carries no base image: run make", r.Familiar())
	}
	if err != nil {
		return nil, none, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, none, api.Errorf(api.Corrupt, "the embedded base image: %w", err)
	}
	var plain bytes.Buffer
	if _, err := z.WriteTo(&plain); err != nil {
		return nil, none, api.Errorf(api.Corrupt, "the embedded base image: %w", err)
	}
	l, err := archive.New(bytes.NewReader(plain.Bytes()), "the embedded base image")
	if err != nil {
		return nil, none, err
	}
	if len(l.Entries()) != 1 {
		return nil, none, api.Errorf(api.Corrupt, "the embedded base image: %d images instead of one", len(l.Entries()))
	}
	e := l.Entries()[0]
	if r.Tag != ref.DefaultTag && r.Digest != e.Target.Digest.String() {
		return nil, none, api.Errorf(api.NotFound, "image %s: not found: brig/base is part of this program, which has only brig/base:latest", r.Familiar())
	}
	return l, e, nil
}
