package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime"
)

// toolFolders are where an image has its programs.
var toolFolders = [...]string{"bin", "sbin", "usr/bin", "usr/sbin"}

// lend has a process find the programs of an image behind those of its container: the only layer of it is mounted where the process alone sees it.
// A program of the image can be executed if it needs nothing else of it, as those of brig/base do.
func (e *Engine) lend(ctx context.Context, run *runtime.Exec, image string, s api.Streams) error {
	var b bringing
	defer b.end()
	spec := api.ContainerSpec{Image: image}
	img, err := e.imageFor(ctx, &spec, s, &b)
	if err != nil {
		return err
	}
	if len(img.Layers) != 1 {
		return api.Errorf(api.Unsupported, "image %s has %d layers: tools come from an image of one, with programs that need no library, as %s", image, len(img.Layers), api.ToolsImage)
	}
	lowers, err := e.snapshot.Lowers([]string{img.Layers[0].DiffID})
	if err != nil {
		return err
	}
	run.Tools = lowers[0]
	if link, err := os.Readlink(filepath.Join(run.Tools, "bin/sh")); err == nil && filepath.IsAbs(link) {
		return api.Errorf(api.Unsupported, "image %s: its bin/sh leads to %s, which is the container's there; fetch a newer one with `brig pull %s`", image, link, image)
	}
	const name = "PATH="
	path := ""
	env := run.Process.Env[:0:0]
	for _, v := range run.Process.Env {
		if strings.HasPrefix(v, name) {
			path = v[len(name):]
			continue
		}
		env = append(env, v)
	}
	for _, dir := range toolFolders {
		if unix.Access(filepath.Join(run.Tools, dir), unix.F_OK) == nil {
			path += ":" + api.ToolsDir + "/" + dir
		}
	}
	run.Process.Env = append(env, name+strings.TrimPrefix(path, ":"))
	return nil
}
