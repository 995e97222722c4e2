package transfer

import (
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/change"
	"brig/internal/image/trust"
)

// xzMemory bounds what an xz stream can ask for: that of xz -9. Go's libraries allocate what the stream says, up to 4 GiB, so the
// program is called, as docker does.
const xzMemory = "100MiB"

// Import makes an image of one layer of the tar in a file, behind a URL, or on standard input. The archive's bytes are the layer's.
func (t *Transfer) Import(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	name, err := newName(r.Refs)
	if err != nil {
		return api.TransferReply{}, err
	}
	p, err := image.ParsePlatform(r.Platform)
	if err != nil {
		return api.TransferReply{}, err
	}
	if p == (image.Platform{}) {
		if p, err = image.ParsePlatform("linux/" + runtime.GOARCH); err != nil {
			return api.TransferReply{}, err
		}
	}
	var doc document
	if err := change.Apply(&doc.Config, r.Changes); err != nil {
		return api.TransferReply{}, err
	}
	judge, err := trust.Open(r.Policy)
	if err != nil {
		return api.TransferReply{}, err
	}
	v, err := accept(ctx, judge, trust.Subject{Transport: trust.Tarball}, nil) // no signature is of it
	if err != nil {
		return api.TransferReply{}, err
	}
	limit, err := t.space()
	if err != nil {
		return api.TransferReply{}, err
	}
	reads, giveUp := context.WithCancel(ctx)
	defer giveUp()
	src, where, err := t.openImport(reads, r.File)
	if err != nil {
		return api.TransferReply{}, err
	}
	defer src.Close()
	layer, err := t.pack(limit, func(w io.Writer) error {
		stage := readAhead(src)
		defer stage.Close()
		defer giveUp() // a read that nobody waits for ends, of a pipe that brings no more
		return copyTar(ctx, w, stage)
	})
	if err != nil {
		if ctx.Err() != nil {
			return api.TransferReply{}, context.Cause(ctx)
		}
		return api.TransferReply{}, api.Errorf(api.KindOf(err), "import from %s: %w", where, err)
	}
	defer layer.f.Close()
	now := time.Now().UTC()
	message := r.Message
	if message == "" {
		message = "Imported from " + origin(r.File)
	}
	doc.Created = &now
	doc.Platform = imagespec.Platform{OS: p.OS, Architecture: p.Arch, Variant: p.Variant}
	doc.RootFS = imagespec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.diffID}}
	doc.History = []imagespec.History{{Created: &now, Comment: message}}
	b := &built{where: where, docs: map[digest.Digest][]byte{}, layer: layer, store: t.stores.Content}
	rec, err := b.publish(ctx, t, doc, []imagespec.Descriptor{layer.blob}, name, v)
	if err != nil {
		return api.TransferReply{}, err
	}
	return api.TransferReply{Images: []api.Image{rec}, Fresh: true}, nil
}

// origin is what docker calls the source in the history: a URL, or - for all that its client sends.
func origin(file string) string {
	if isURL(file) {
		return withoutPassword(file)
	}
	return "-"
}

// openImport opens the source. A read that hangs ends with ctx.
func (t *Transfer) openImport(ctx context.Context, file string) (io.ReadCloser, string, error) {
	switch {
	case file == "":
		if isTerminal(t.Stdin) {
			return nil, "", api.Errorf(api.InvalidArgument, "import: standard input is a terminal: name the archive, or redirect it")
		}
		return polled{ctx, t.Stdin}, "standard input", nil
	case isURL(file):
		body, err := fetch(ctx, file)
		return body, withoutPassword(file), err
	}
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return nil, "", api.Errorf(api.NotFound, "import: %w", err)
	}
	if err != nil {
		return nil, "", err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, "", api.Errorf(api.InvalidArgument, "import: %s is a folder: import takes a tar archive, as from `tar -C %s -c .`", file, file)
	}
	return polled{ctx, f}, "archive " + file, nil
}

// copyTar writes the archive in r unpacked. That it is one shows when the layer is unpacked.
func copyTar(ctx context.Context, w io.Writer, r io.Reader) error {
	plain, err := decompressAny(ctx, r)
	if err != nil {
		return err
	}
	defer plain.Close()
	first := bufio.NewReaderSize(plain, 64<<10)
	if head, err := first.Peek(512); err == io.EOF && len(head) == 0 {
		return api.Errorf(api.InvalidArgument, "it is empty")
	}
	_, err = io.CopyBuffer(w, reading{ctx, first}, make([]byte, 256<<10))
	return err
}

// decompressAny unpacks what docker import takes: gzip, zstd, bzip2, xz, or a plain tar.
func decompressAny(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch h := string(head); {
	case strings.HasPrefix(h, "BZh"):
		return io.NopCloser(kinded{bzip2.NewReader(br), "bzip2"}), nil
	case h == "\xfd7zXZ\x00":
		return unxz(ctx, br)
	}
	plain, _, err := image.Decompress(br)
	return plain, err
}

// unxz has the program xz unpack r.
func unxz(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--quiet", "--no-adjust", "--memlimit-decompress="+xzMemory)
	var words limited
	cmd.Stdin, cmd.Stderr, cmd.WaitDelay = r, &words, time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return nil, api.Errorf(api.Unsupported, "it is packed with xz, and the program xz is not installed: install it (Debian: xz-utils), or unpack the archive first")
	}
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "xz: %w", err)
	}
	x := &xzStream{cmd: cmd, out: out, words: &words}
	return x, nil
}

// xzStream is the output of xz. That all of it came shows at its end.
type xzStream struct {
	cmd   *exec.Cmd
	out   io.Reader
	words *limited
	done  bool
	err   error
}

func (x *xzStream) Read(p []byte) (int, error) {
	if x.done {
		return 0, x.err
	}
	n, err := x.out.Read(p)
	if err == nil {
		return n, nil
	}
	x.done, x.err = true, io.EOF
	if werr := x.cmd.Wait(); werr != nil {
		x.err = api.Errorf(api.Corrupt, "xz: %w: %s", werr, strconv.Quote(strings.TrimSpace(string(x.words.b))))
	}
	return n, x.err
}

func (x *xzStream) Close() error {
	if !x.done {
		x.done, x.err = true, os.ErrClosed
		_ = x.cmd.Process.Kill()
		_ = x.cmd.Wait()
	}
	return nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), 512-len(l.b))]...)
	return len(p), nil
}

// kinded gives a decompressor's errors their kind.
type kinded struct {
	r    io.Reader
	name string
}

func (k kinded) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && err != io.EOF && api.KindOf(err) == "" {
		err = api.Errorf(api.Corrupt, "%s: %w", k.name, err)
	}
	return n, err
}

// polled reads a file whose bytes may never come, as those of a pipe, until ctx ends.
type polled struct {
	ctx context.Context
	*os.File
}

func (p polled) Read(b []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(p.Fd()), Events: unix.POLLIN}}
	for {
		if p.ctx.Err() != nil {
			return 0, context.Cause(p.ctx)
		}
		n, err := unix.Poll(fds, 100) // milliseconds
		if err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return p.File.Read(b)
		}
	}
}
