package cli

import (
	"slices"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

type inspectImage struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Parent       string // docker's builder of long ago knew it
	Comment      string
	Created      string
	Author       string
	Config       inspectImageConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	VirtualSize  int64
	GraphDriver  inspectGraphDriver
	RootFS       inspectRootFS
	Metadata     inspectMetadata
	Descriptor   imagespec.Descriptor
}

// inspectGraphDriver says who keeps the files. Where is nobody else's business: Data is empty.
type inspectGraphDriver struct {
	Name string
	Data map[string]string
}

type inspectImageConfig struct {
	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Entrypoint   []string
	Cmd          []string
	Volumes      map[string]struct{}
	WorkingDir   string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
	api.ImageExtra
}

type inspectRootFS struct {
	Type   string
	Layers []string
}

type inspectMetadata struct{ LastTagTime string }

// imageView writes img as docker inspect does.
func imageView(d *api.ImageDetail) inspectImage {
	img := &d.Image
	c := &img.Config
	v := inspectImage{
		ID: img.ID, RepoTags: []string{}, RepoDigests: []string{}, Created: dockerTime(img.Created),
		Config: inspectImageConfig{
			User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes,
			WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal, ImageExtra: d.Extra,
		},
		Author: d.Author, GraphDriver: inspectGraphDriver{Name: "overlay"}, Descriptor: img.Target,
		Size: imageSize(img), VirtualSize: imageSize(img), RootFS: inspectRootFS{Type: "layers", Layers: []string{}}, Metadata: inspectMetadata{LastTagTime: dockerTime(img.Pulled)},
	}
	platform := strings.SplitN(img.Platform+"//", "/", 4)
	v.Os, v.Architecture, v.Variant = platform[0], platform[1], platform[2]
	for _, l := range img.Layers {
		v.RootFS.Layers = append(v.RootFS.Layers, l.DiffID)
	}
	if n := len(d.History); n > 0 {
		v.Comment = d.History[n-1].Comment
	}
	for _, name := range d.Names {
		repo, tag, digest := splitName(familiar(name))
		if tag != "" {
			v.RepoTags = append(v.RepoTags, repo+":"+tag)
		}
		if digest == "" {
			digest = string(img.Target.Digest)
		}
		if digest != "" && !slices.Contains(v.RepoDigests, repo+"@"+digest) {
			v.RepoDigests = append(v.RepoDigests, repo+"@"+digest)
		}
	}
	return v
}
