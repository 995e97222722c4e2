package transfer

import (
	"context"
	"fmt"
	"os"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/archive"
	"brig/internal/image/layout"
	"brig/internal/image/ref"
	"brig/internal/image/trust"
	"brig/internal/store/garbage"
)

// Load brings in all images of an archive or a layout folder.
func (t *Transfer) Load(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	platform, err := image.ParsePlatform(r.Platform)
	if err != nil {
		return api.TransferReply{}, err
	}
	judge, err := trust.Open(r.Policy)
	if err != nil {
		return api.TransferReply{}, err
	}
	src, err := t.open(ctx, r.File)
	if err != nil {
		return api.TransferReply{}, err
	}
	defer src.Close()
	if len(src.Entries()) == 0 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "%s: there is no image in it", src.Where())
	}
	show := newDisplay(t.Stderr, r.Quiet, false)
	var reply api.TransferReply
	for _, e := range images(ctx, src) {
		var rec api.Image
		if rec, err = t.loadOne(ctx, judge, src, r.File, e, platform, show); err != nil {
			break
		}
		reply.Images, reply.Fresh = append(reply.Images, rec), true
	}
	show.finish()
	out := t.Stdout
	if err != nil {
		out = t.Stderr // those that came before one that failed stay
	}
	for _, rec := range reply.Images {
		if rec.Name == "" {
			fmt.Fprintf(out, "Loaded image ID: %s\n", rec.ID)
		} else {
			fmt.Fprintf(out, "Loaded image: %s\n", familiar(rec.Name))
		}
	}
	if err != nil {
		return api.TransferReply{}, err
	}
	return reply, nil
}

// images leaves out what says something about an image (a signature, an SBOM), unless there is nothing else: then that is told.
func images(ctx context.Context, src image.Lister) []image.Entry {
	var all []image.Entry
	for _, e := range src.Entries() {
		n, err := image.ReadNode(ctx, src, e.Target)
		if err != nil || n.Index || n.Image() && n.Subject == nil && !image.AboutOther(e.Tag) {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return src.Entries()
	}
	return all
}

func (t *Transfer) loadOne(ctx context.Context, judge *trust.Judge, src image.Lister, file string, e image.Entry, p image.Platform, show *display) (api.Image, error) {
	v, err := accept(ctx, judge, cameFrom(src, file, e), nil)
	if err != nil {
		return api.Image{}, err
	}
	img, err := image.Resolve(ctx, src, e.Target, p)
	if err != nil {
		return api.Image{}, err
	}
	if img.Warning != "" {
		show.warn("%s: %s", loadedName(e.Name, img), img.Warning)
	}
	return t.ingest(ctx, img, e.Name, show, garbage.Set{}, &v)
}

// open opens a folder, a file or standard input. A pipe that does not end is left behind when ctx is cancelled.
func (t *Transfer) open(ctx context.Context, file string) (image.Lister, error) {
	f, where := t.Stdin, "standard input"
	if file != "" {
		info, err := os.Stat(file)
		if err != nil {
			return nil, api.Errorf(api.NotFound, "load: %w", err)
		}
		if info.IsDir() {
			return layout.OpenDir(file)
		}
		if f, err = os.Open(file); err != nil {
			return nil, err
		}
		where = "archive " + file
	} else if isTerminal(f) {
		return nil, api.Errorf(api.InvalidArgument, "load: standard input is a terminal: name the archive with -i, or redirect it")
	}
	type result struct {
		l   image.Lister
		err error
	}
	done := make(chan result, 1)
	go func() {
		l, err := archive.Open(f, where, t.stores.Root)
		done <- result{l, err}
	}()
	select {
	case r := <-done:
		return r.l, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func loadedName(name string, img *image.Image) string {
	if name == "" {
		return "image " + img.ID.String()
	}
	return "image " + familiar(name)
}

// familiar shortens a full reference.
func familiar(full string) string {
	r, err := ref.Parse(full)
	if err != nil {
		return full
	}
	return r.Familiar()
}
