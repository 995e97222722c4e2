package cli

import (
	"strings"

	"brig/api"
)

type inspectImage struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Created      string
	Config       inspectImageConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	RootFS       inspectRootFS
	Metadata     inspectMetadata
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
}

type inspectRootFS struct {
	Type   string
	Layers []string
}

type inspectMetadata struct{ LastTagTime string }

// imageView writes img as docker inspect does.
func imageView(img *api.Image) inspectImage {
	c := &img.Config
	v := inspectImage{
		ID: img.ID, RepoTags: []string{}, RepoDigests: []string{}, Created: dockerTime(img.Created),
		Config: inspectImageConfig{
			User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes,
			WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
		},
		Size: imageSize(img), RootFS: inspectRootFS{Type: "layers", Layers: []string{}}, Metadata: inspectMetadata{LastTagTime: dockerTime(img.Pulled)},
	}
	platform := strings.SplitN(img.Platform+"//", "/", 4)
	v.Os, v.Architecture, v.Variant = platform[0], platform[1], platform[2]
	for _, l := range img.Layers {
		v.RootFS.Layers = append(v.RootFS.Layers, l.DiffID)
	}
	if img.Name != "" {
		name := familiar(img.Name)
		repo, tag, digest := splitName(name)
		if tag != "" {
			v.RepoTags = append(v.RepoTags, repo+":"+tag)
		}
		if digest == "" {
			digest = string(img.Target.Digest)
		}
		if digest != "" {
			v.RepoDigests = append(v.RepoDigests, repo+"@"+digest)
		}
	}
	return v
}
