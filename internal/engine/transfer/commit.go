package transfer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
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
	"brig/internal/kernel/cgroup"
	"brig/internal/store/pack"
)

// Commit makes an image of a container: its image's layers, what it has changed as one more, and its own settings. The caller keeps the container
// from being changed; a container that runs is frozen here, and runs again as soon as its files have been read.
func (t *Transfer) Commit(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	c, err := t.stores.Meta.Container(r.Container)
	if err != nil {
		return api.TransferReply{}, err
	}
	name, err := newName(r.Refs)
	if err != nil {
		return api.TransferReply{}, err
	}
	base, doc, err := t.baseOf(&c)
	if err != nil {
		return api.TransferReply{}, err
	}
	args := settings(&c, &doc.Config)
	if err := change.Apply(&doc.Config, r.Changes); err != nil {
		return api.TransferReply{}, err
	}
	still, err := freeze(r.Freeze)
	if err != nil {
		return api.TransferReply{}, about(&c, err)
	}
	layer, err := t.packChanges(ctx, &c)
	thawed := still.thaw() // as soon as its files have been read, or cannot be
	if err != nil {
		return api.TransferReply{}, about(&c, err)
	}
	now := time.Now().UTC()
	doc.Created, doc.Author = &now, r.Author
	doc.History = append(doc.History, imagespec.History{Created: &now, CreatedBy: strings.Join(args, " "), Author: r.Author, Comment: r.Message, EmptyLayer: layer == nil})
	b := &built{where: "commit of container " + c.Name, docs: map[digest.Digest][]byte{}, layer: layer, store: t.stores.Content}
	var layers []imagespec.Descriptor
	for _, l := range base.Layers {
		layers = append(layers, ociLayer(l.Blob))
	}
	if layer != nil {
		defer layer.f.Close()
		doc.RootFS.DiffIDs = append(doc.RootFS.DiffIDs, layer.diffID)
		layers = append(layers, layer.blob)
	}
	rec, err := b.publish(ctx, t, doc, layers, name, verdict{trust: api.Trust{Transport: trust.Storage}})
	if err != nil {
		return api.TransferReply{}, about(&c, err)
	}
	return api.TransferReply{Images: []api.Image{rec}, Fresh: true, Thawed: thawed}, nil
}

// about says which commit an error is about.
func about(c *api.Container, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return api.Errorf(api.KindOf(err), "commit of container %s: %w", c.Name, err)
}

// frozen is a control group that this process has frozen; the zero value is none.
type frozen struct{ g *cgroup.Group }

// freeze stops what runs in a control group. It is done here, not where the commit was asked for: between that process's death and this one's start nobody
// would be there to let it run again.
func freeze(path string) (frozen, error) {
	if path == "" {
		return frozen{}, nil
	}
	g, err := cgroup.Load(path)
	if err == nil {
		err = g.Freeze()
	}
	if errors.Is(err, api.NotFound) { // it has ended meanwhile
		return frozen{}, nil
	}
	if err != nil {
		return frozen{}, api.Errorf(api.KindOf(err), "pausing it: %w; --pause=false commits it as it runs", err)
	}
	return frozen{g}, nil
}

// thaw lets it run again. Where that fails whoever asked for the commit tries too.
func (f frozen) thaw() bool { return f.g != nil && f.g.Thaw() == nil }

// baseOf returns the image that a container was made of, and its config to go on from.
func (t *Transfer) baseOf(c *api.Container) (api.Image, document, error) {
	var doc document
	if dir := c.Spec.Rootfs.Dir; dir != "" {
		return api.Image{}, doc, api.Errorf(api.Unsupported, "commit of container %s: it has no image, its root is the folder %s: `brig export` it, and `brig import` that", c.Name, dir)
	}
	base, err := t.stores.Meta.ImageByID(c.Image)
	if errors.Is(err, api.NotFound) {
		return base, doc, api.Errorf(api.NotFound, "commit of container %s: its image %s is not in the store any more: pull or load it again (%s)", c.Name, c.Image, c.ImageName)
	}
	if err != nil {
		return base, doc, err
	}
	data, err := t.stores.Content.Bytes(digest.Digest(base.ID), image.MaxDocument)
	if err != nil {
		return base, doc, err
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return base, doc, api.Errorf(api.Corrupt, "image %s: config: %w", base.ID, err)
	}
	same := len(base.Layers) == len(c.Layers) && len(doc.RootFS.DiffIDs) == len(c.Layers)
	for i := 0; same && i < len(c.Layers); i++ {
		same = base.Layers[i].DiffID == c.Layers[i] && doc.RootFS.DiffIDs[i].String() == c.Layers[i]
	}
	if !same {
		return base, doc, api.Errorf(api.Corrupt, "container %s: its layers are not those of its image %s", c.Name, base.ID)
	}
	doc.RootFS.Type = "layers"
	return base, doc, nil
}

// settings puts a container's own settings over its image's, as docker commit does, and returns its command.
func settings(c *api.Container, conf *change.Config) []string {
	s := &c.Spec
	conf.OnBuild = nil // they are for who builds on the image, and were carried out, or not, when that was done
	if s.Entrypoint != nil {
		conf.Entrypoint, conf.Cmd = *s.Entrypoint, nil
	}
	if len(s.Command) > 0 {
		conf.Cmd = s.Command
	}
	conf.Env = mergeEnv(conf.Env, s.Env)
	for _, x := range []struct {
		own string
		to  *string
	}{{s.User, &conf.User}, {s.WorkingDir, &conf.WorkingDir}, {s.StopSignal, &conf.StopSignal}} {
		if x.own != "" {
			*x.to = x.own
		}
	}
	for k, v := range s.Labels {
		if conf.Labels == nil {
			conf.Labels = map[string]string{}
		}
		conf.Labels[k] = v
	}
	for _, p := range s.Network.Ports {
		if conf.ExposedPorts == nil {
			conf.ExposedPorts = map[string]struct{}{}
		}
		conf.ExposedPorts[strconv.Itoa(int(p.ContainerPort))+"/"+p.Protocol] = struct{}{}
	}
	return conf.Cmd
}

// mergeEnv sets variables; a bare NAME unsets.
func mergeEnv(env, more []string) []string {
	for _, v := range more {
		name, _, set := strings.Cut(v, "=")
		env = slices.DeleteFunc(slices.Clone(env), func(o string) bool { return !set && strings.HasPrefix(o, name+"=") })
		i := slices.IndexFunc(env, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		switch {
		case set && i >= 0:
			env[i] = v
		case set:
			env = append(env, v)
		}
	}
	return env
}

// packChanges packs what a container has changed; nil where that is nothing.
func (t *Transfer) packChanges(ctx context.Context, c *api.Container) (*packed, error) {
	upper, err := t.upper(c)
	if err != nil || upper == "" {
		return nil, err
	}
	limit, err := t.space()
	if err != nil {
		return nil, err
	}
	fd, err := cloneRoot(upper)
	if err != nil {
		return nil, err
	}
	root := os.NewFile(uintptr(fd), "changes of "+c.Name)
	defer root.Close()
	w := t.warnings()
	defer w.end()
	var did pack.Result
	layer, err := t.pack(limit, func(out io.Writer) (err error) {
		buffered := bufio.NewWriterSize(out, 256<<10)
		if did, err = pack.Layer(ctx, fd, buffered, pack.Options{Warn: w.warn, Skip: brigsOwn, MaxBytes: limit, Owner: ownersOf(c)}); err != nil {
			return err
		}
		return buffered.Flush()
	})
	if err == nil && did.Entries == 0 {
		layer.f.Close()
		layer = nil
	}
	return layer, err
}

// brigsOwn says that an entry is an empty file that Brig made for its own to be mounted on.
func brigsOwn(path string, st *unix.Stat_t) bool {
	switch path {
	case "etc/hosts", "etc/hostname", "etc/resolv.conf":
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
	}
	return false
}

// ociLayer describes a layer that an image in docker's format brought in, as OCI's manifests do. The bytes are the same.
func ociLayer(d imagespec.Descriptor) imagespec.Descriptor {
	switch d.MediaType {
	case image.DockerLayerTar:
		d.MediaType = imagespec.MediaTypeImageLayer
	case image.DockerLayerTar + ".gzip":
		d.MediaType = imagespec.MediaTypeImageLayerGzip
	case image.DockerLayerTar + ".zstd":
		d.MediaType = imagespec.MediaTypeImageLayerZstd
	}
	return d
}
