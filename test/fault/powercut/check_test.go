package powercut

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/engine"
	"brig/internal/store/garbage"
)

const (
	rootName    = "root"           // of --root, on the file system that is cut
	maxDocument = 4 << 20          // bytes of a manifest or config
	layerDir    = "snapshot/layer" // below --root
)

// layers are the fingerprints of the layers as they were when nothing disturbed them, by their digits: one as folders, one packed.
// With anyLayer, there may be others.
type layers map[string][]uint64

const anyLayer = "*"

// learn takes the layers of an undisturbed tree; top is where --root is in it.
func (l layers) learn(t *Tree, top string) {
	for _, hex := range t.Names(top + layerDir) {
		if sum := t.Sum(top + layerDir + "/" + hex); !slices.Contains(l[hex], sum) {
			l[hex] = append(l[hex], sum)
		}
	}
}

// check looks at a store through the engine's own packages and returns what is wrong with it. All of it is to open; every blob and every layer that can be seen
// must be whole, also where no image needs it, since the next pull relies on what is there; and every image must have all that it consists of. t is what the
// folder holds, top where --root is in it.
func check(root, state string, t *Tree, top string, whole layers) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	s := garbage.Open(root)
	images, err := s.Meta.Images()
	if err != nil {
		bad("images: %v", err)
	}
	for _, img := range images {
		for _, d := range []digest.Digest{img.Target.Digest, img.Manifest.Digest, digest.Digest(img.ID)} {
			if _, err := s.Content.Bytes(d, maxDocument); err != nil {
				bad("image %s: %v", img.Name, err)
			}
		}
		for _, l := range img.Layers {
			if !s.Content.Has(l.Blob.Digest) {
				bad("image %s: layer blob %s is missing", img.Name, l.Blob.Digest)
			}
			if size, err := s.Snapshot.LayerSize(l.DiffID); err != nil || size != l.Size || !s.Snapshot.Has(digest.Digest(l.DiffID)) {
				bad("image %s: layer %s: size %d of %d, %v", img.Name, l.DiffID, size, l.Size, err)
			}
		}
	}
	blobs, err := s.Content.Blobs()
	if err != nil {
		bad("blobs: %v", err)
	}
	for _, d := range blobs {
		if !s.Content.Has(d) {
			continue // a link to a packed layer that is still to come, or has gone
		}
		if err := readAll(s, d); err != nil {
			bad("blob in sight: %v", err)
		}
	}
	unpacked, err := s.Snapshot.Layers()
	if err != nil {
		bad("layers: %v", err)
	}
	for _, d := range unpacked {
		sums, known := whole[d.Encoded()]
		if _, others := whole[anyLayer]; !known && others {
			continue
		}
		if !slices.Contains(sums, t.Sum(top+layerDir+"/"+d.Encoded())) {
			bad("layer in sight: %s is not what it was", d)
		}
	}
	if _, err := s.Content.Refs(); err != nil {
		bad("index.json: %v", err)
	}
	if _, err := engine.New(root, state, "").List(context.Background()); err != nil {
		bad("containers: %v", err)
	}
	return wrong
}

// dangling lists blobs that are to be had from layers that are not there.
func dangling(root string) (list []digest.Digest) {
	s := garbage.Open(root)
	blobs, _ := s.Content.Blobs()
	return slices.DeleteFunc(blobs, s.Content.Has)
}

func readAll(s garbage.Stores, d digest.Digest) error {
	r, err := s.Content.Reader(d)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// facts are what was reported: things by name, each with what is told of it; "" says that there is no such thing.
//
//	image NAME      its target's digest
//	image ID        "untagged"
//	container NAME  created, exited 0
//	pod NAME        Created
//	network NAME    "there"
//	secret NAME     "there", with its content
//	network NAME of CONTAINER  "on" where the container is on it
//	volume NAME     "fresh", or "used" and the digest of the image's file that was copied into it
type facts map[string]string

// tell looks a thing up.
func tell(root, state, thing string) string {
	kind, name, _ := strings.Cut(thing, " ")
	s, e := garbage.Open(root), engine.New(root, state, "")
	switch kind {
	case "image":
		img, err := s.Meta.Image(name)
		switch {
		case errors.Is(err, api.NotFound):
			return ""
		case err != nil:
			return err.Error()
		case img.Name == "":
			return "untagged"
		}
		return img.Target.Digest.String()
	case "container":
		c, err := e.Inspect(context.Background(), name)
		switch {
		case errors.Is(err, api.NotFound):
			return ""
		case err != nil:
			return err.Error()
		case c.State.Exit != nil:
			return fmt.Sprintf("%s %d", c.State.Status, c.State.Exit.Code)
		}
		return string(c.State.Status)
	case "pod":
		p, err := e.InspectPod(context.Background(), name)
		switch {
		case errors.Is(err, api.NotFound):
			return ""
		case err != nil:
			return err.Error()
		}
		return string(p.Status)
	case "volume":
		dir := filepath.Join(root, "volume", name)
		record, err := os.ReadFile(filepath.Join(dir, "volume.json"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return ""
		case err != nil:
			return err.Error()
		case !strings.Contains(string(record), `"used":true`):
			return "fresh"
		}
		file, err := os.ReadFile(filepath.Join(dir, "data", "big"))
		if err != nil {
			return err.Error()
		}
		return "used " + digest.FromBytes(file).String()
	case "secret":
		_, err := e.InspectSecret(context.Background(), name)
		switch {
		case errors.Is(err, api.NotFound):
			return ""
		case err != nil:
			return err.Error()
		}
		return "there"
	case "network":
		name, container, of := strings.Cut(name, " of ")
		if of {
			c, err := e.Inspect(context.Background(), container)
			switch {
			case errors.Is(err, api.NotFound):
				return ""
			case err != nil:
				return err.Error()
			case slices.ContainsFunc(c.Spec.Network.Networks, func(n api.EndpointSpec) bool { return n.Network == name }):
				return "on"
			}
			return ""
		}
		_, err := e.InspectNetwork(context.Background(), name)
		switch {
		case errors.Is(err, api.NotFound):
			return ""
		case err != nil:
			return err.Error()
		}
		return "there"
	}
	panic("unknown thing " + thing)
}

// hold holds what was reported against what is there. doing are the things that the interrupted command was about: each may be as before or as after.
func hold(root, state string, done, doing facts) (wrong []string) {
	for _, thing := range slices.Sorted(maps.Keys(done)) {
		got, want := tell(root, state, thing), done[thing]
		after, busy := doing[thing]
		if got == want || busy && (got == after || between(thing, got)) {
			continue
		}
		if busy {
			want += "\" or \"" + after
		}
		wrong = append(wrong, fmt.Sprintf("%s: %q, want %q", thing, got, want))
	}
	return wrong
}

// between reports whether a container may be so while a command is about it: half made, half removed, or not started yet. The next command of its name removes it. A
// volume may be there before the container's files are in it.
func between(thing, got string) bool {
	return strings.HasPrefix(thing, "volume ") && got == "fresh" || strings.HasPrefix(thing, "pod ") && got == "" || strings.HasPrefix(thing, "container ") && slices.Contains([]string{"", string(api.StatusDead), string(api.StatusCreated), "created 125", "exited 255"}, got)
}
