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
)

// Load brings in all images of an archive or a layout folder.
func (t *Transfer) Load(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	platform, err := image.ParsePlatform(r.Platform)
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
	defer show.finish()
	var reply api.TransferReply
	for _, e := range src.Entries() {
		img, err := image.Resolve(ctx, src, e.Target, platform)
		if err != nil {
			return api.TransferReply{}, err
		}
		if img.Warning != "" {
			show.warn("%s: %s", loadedName(e.Name, img), img.Warning)
		}
		rec, err := t.ingest(ctx, img, e.Name, show)
		if err != nil {
			return api.TransferReply{}, err
		}
		reply.Images = append(reply.Images, rec)
		reply.Fresh = true
	}
	show.finish()
	for _, rec := range reply.Images {
		if rec.Name == "" {
			fmt.Fprintf(t.Stdout, "Loaded image ID: %s\n", rec.ID)
		} else {
			fmt.Fprintf(t.Stdout, "Loaded image: %s\n", familiar(rec.Name))
		}
	}
	return reply, nil
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
