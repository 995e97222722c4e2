package pack

import (
	"archive/tar"
	"context"
	"io"

	"golang.org/x/sys/unix"
)

// Object writes one thing, a folder with all below it, under the name as. fd is a descriptor of the thing itself, of the kind O_PATH; what as is empty for is
// a folder whose content is written as Root does.
func Object(ctx context.Context, fd int, as string, w io.Writer, o Options) (Result, error) {
	if as == "" {
		return Root(ctx, fd, w, o)
	}
	p := newPacker(ctx, w, o)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return p.result, err
	}
	if err := p.object(fd, as, &st, 0); err != nil {
		return p.result, err
	}
	return p.result, p.tar.Close()
}

func newPacker(ctx context.Context, w io.Writer, o Options) *packer {
	p := &packer{ctx: ctx, tar: tar.NewWriter(w), out: w, o: o, links: map[inode]*linked{}, buf: make([]byte, bufferSize)}
	if p.o.Warn == nil {
		p.o.Warn = func(string, ...any) {}
	}
	return p
}
