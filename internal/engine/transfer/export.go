package transfer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"brig/api"
	"brig/internal/store/pack"
)

// maxWarnings is how many files of a tree are warned of: their number, and their names, are up to the container.
const maxWarnings = 20

// Export writes a container's root file system, as it is at this moment, as a tar to a file or to standard output.
func (t *Transfer) Export(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	c, err := t.stores.Meta.Container(r.Container)
	if err != nil {
		return api.TransferReply{}, err
	}
	root, err := t.openRoot(&c)
	if err != nil {
		return api.TransferReply{}, err
	}
	defer root.Close()
	w := t.warnings()
	put := func(ctx context.Context, out io.Writer) error {
		buffered := bufio.NewWriterSize(out, 256<<10)
		if _, err := pack.Root(ctx, int(root.Fd()), buffered, pack.Options{Warn: w.warn, Sparse: true, Owner: ownersOf(&c)}); err != nil {
			return err
		}
		if _, err := t.stores.Meta.Container(c.ID); errors.Is(err, api.NotFound) {
			return api.Errorf(api.Conflict, "it was removed meanwhile: the archive is not whole")
		}
		return buffered.Flush()
	}
	if r.File != "" {
		err = intoFile(ctx, "export", r.File, put)
	} else if f, ok := t.Stdout.(*os.File); ok && isTerminal(f) {
		err = api.Errorf(api.InvalidArgument, "refusing to write an archive to a terminal: name a file with -o, or redirect standard output")
	} else {
		err = put(ctx, t.Stdout)
	}
	w.end()
	if err != nil && !errors.Is(err, context.Canceled) {
		err = api.Errorf(api.KindOf(err), "export of container %s: %w", c.Name, err)
	}
	return api.TransferReply{}, err
}

// warnings tells the user of the first few.
type warnings struct {
	show *display
	n    int
}

func (t *Transfer) warnings() *warnings { return &warnings{show: newDisplay(t.Stderr, true, false)} }

func (w *warnings) warn(format string, args ...any) {
	if w.n++; w.n <= maxWarnings {
		w.show.warn(format, args...)
	}
}

// end tells how many more there were.
func (w *warnings) end() {
	if w.n > maxWarnings {
		w.show.warn("and %d more like these", w.n-maxWarnings)
	}
}
