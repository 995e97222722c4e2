package transfer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/image"
	"brig/internal/store/pack"
	"brig/internal/store/snapshot/extract"
)

// ExportVolume writes the files below a folder, a volume's, as a tar to a file or to standard output.
func (t *Transfer) ExportVolume(ctx context.Context, r api.TransferRequest) error {
	dir, err := openFolder(r.Volume)
	if err != nil {
		return err
	}
	defer dir.Close()
	w := t.warnings()
	defer w.end()
	put := func(ctx context.Context, out io.Writer) error {
		buffered := bufio.NewWriterSize(out, 256<<10)
		if _, err := pack.Root(ctx, int(dir.Fd()), buffered, pack.Options{Warn: w.warn, Sparse: true}); err != nil {
			return err
		}
		return buffered.Flush()
	}
	if r.File != "" {
		return intoFile(ctx, "volume export", r.File, put)
	}
	if f, ok := t.Stdout.(*os.File); ok && isTerminal(f) {
		return api.Errorf(api.InvalidArgument, "refusing to write an archive to a terminal: name a file with -o, or redirect standard output")
	}
	return put(ctx, t.Stdout)
}

// ImportVolume unpacks a tar, compressed or not, below a volume's folder, and syncs what it wrote.
func (t *Transfer) ImportVolume(ctx context.Context, r api.TransferRequest) error {
	src, where, err := t.openImport(ctx, r.File)
	if err != nil {
		return err
	}
	defer src.Close()
	dir, err := openFolder(r.Volume)
	if err != nil {
		return err
	}
	defer dir.Close()
	plain, _, err := image.Decompress(bufio.NewReaderSize(src, 64<<10))
	if err != nil {
		return api.Errorf(api.KindOf(err), "volume import from %s: %w", where, err)
	}
	defer plain.Close()
	if _, err = extract.Files(ctx, int(dir.Fd()), plain); err == nil {
		err = unix.Syncfs(int(dir.Fd()))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return api.Errorf(api.KindOf(err), "volume import from %s: %w; what came before stays in the volume", where, err)
	}
	return err
}

func openFolder(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
