package api

import (
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is the record of an image in the store: a name, and all that run needs of the manifest behind it, so that a start opens one small file.
type Image struct {
	Name     string                `json:"name"`     // full reference: docker.io/library/debian:12; empty for an untagged image
	Target   imagespec.Descriptor  `json:"target"`   // what the name points to: a manifest or an index
	Manifest imagespec.Descriptor  `json:"manifest"` // the manifest of Platform; same as Target unless that is an index
	ID       string                `json:"id"`       // digest of the image config, sha256:…: docker's image ID
	Platform string                `json:"platform"` // os/arch[/variant]
	Layers   []Layer               `json:"layers"`   // bottom first
	Config   imagespec.ImageConfig `json:"config"`
	Created  time.Time             `json:"created,omitzero"`
	Pulled   time.Time             `json:"pulled,omitzero"`
}

// Layer is one layer of an image.
type Layer struct {
	Blob   imagespec.Descriptor `json:"blob"`   // as stored and sent, compressed or not
	DiffID string               `json:"diffID"` // digest of the uncompressed archive; names the unpacked snapshot
	Size   int64                `json:"size"`   // unpacked bytes of file content
}

// TransferRequest asks for an image to be brought in or out. It is what `brig` hands to `brig-image`, as JSON.
type TransferRequest struct {
	Op       string   `json:"op"`                 // pull, load, save, import, export or commit
	Refs     []string `json:"refs,omitempty"`     // pull: one; save: one or more
	Platform string   `json:"platform,omitempty"` // os/arch[/variant]; empty: this machine's
	File     string   `json:"file,omitempty"`     // load, save: a file, or a folder for a layout; export: a file; import: a file or URL; empty: standard input or output
	Format   string   `json:"format,omitempty"`   // save: docker-archive (default), oci-archive, oci-dir
	Insecure bool     `json:"insecure,omitempty"` // pull: plain HTTP or an unverified certificate is allowed
	Quiet    bool     `json:"quiet,omitempty"`

	Container string   `json:"container,omitempty"` // export, commit: whole ID
	Changes   []string `json:"changes,omitempty"`   // import, commit: Dockerfile instructions
	Author    string   `json:"author,omitempty"`    // commit
	Message   string   `json:"message,omitempty"`   // import, commit
	Freeze    string   `json:"freeze,omitempty"`    // commit: the control group that stands still while the files are read
}

// TransferReply is what a transfer did.
type TransferReply struct {
	Images []Image `json:"images,omitempty"`
	Fresh  bool    `json:"fresh,omitempty"`  // pull: something new arrived
	Thawed bool    `json:"thawed,omitempty"` // commit: what Freeze named runs again
	Error  string  `json:"error,omitempty"`
	Kind   Kind    `json:"kind,omitempty"`
}

// ImageExtra is what docker's image config has beyond OCI's.
type ImageExtra struct {
	Healthcheck *Healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`
}

// Healthcheck is how a container is asked whether it is well: docker's HealthConfig. Durations are in nanoseconds, 0 means docker's default.
type Healthcheck struct {
	Test          []string      `json:"Test,omitempty"` // NONE; CMD and arguments; CMD-SHELL and a command line
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// ImageDetail is an image with what only its config knows: what inspect and history tell.
type ImageDetail struct {
	Image
	Names   []string // of this image, full references, in order
	Author  string
	Extra   ImageExtra
	History []imagespec.History // oldest first
}

// CommitOptions are what commit takes beside the container.
type CommitOptions struct {
	Name    string // NAME[:TAG]; empty: none
	Author  string
	Message string
	Changes []string // Dockerfile instructions
	NoPause bool     // a container that runs goes on running while its files are read
}
