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
	Health   *Healthcheck          `json:"health,omitempty"` // docker's, which OCI's config has not
	Created  time.Time             `json:"created,omitzero"`
	Pulled   time.Time             `json:"pulled,omitzero"`
	Short    string                `json:"short,omitempty"` // NAME:TAG without a registry that it was pulled by, where registries.conf says what that means
	Trust    Trust                 `json:"trust,omitzero"`
}

// Trust says where an image came from, and under which signature policy it was accepted. A run compares files and asks no more.
type Trust struct {
	Transport string `json:"transport,omitempty"` // docker for a registry, or docker-archive, oci-archive, oci, tarball, containers-storage; empty: nobody knows
	Reference string `json:"reference,omitempty"` // full name in the registry, or the absolute path of archive or folder
	// Files are what the decision rests on: the policy, then the keys that were used. Empty: there was no policy.
	Files []TrustFile `json:"files,omitempty"`
	// Signatures is the digest of the document, in the content store, of the signatures that were found.
	Signatures string `json:"signatures,omitempty"`
}

// Origin is Trust of an image, also of one that came in before there was a policy: from the registry that its name, or that of before it lost it, tells. Where
// there is none either, nobody knows, which is a registry without a reference.
func (i *Image) Origin() Trust {
	t := i.Trust
	if t.Transport == "" {
		t.Transport, t.Reference = "docker", i.Name
	}
	return t
}

// TrustFile is a file in a certain state.
type TrustFile struct {
	Path  string `json:"path"`
	Stamp string `json:"stamp"`
}

// Layer is one layer of an image.
type Layer struct {
	Blob   imagespec.Descriptor `json:"blob"`   // as stored and sent, compressed or not
	DiffID string               `json:"diffID"` // digest of the uncompressed archive; names the unpacked snapshot
	Size   int64                `json:"size"`   // unpacked bytes of file content
}

// TransferRequest asks for an image to be brought in or out, or for a word with a registry. It is what `brig` hands to `brig-image`, as JSON
// that other users of the machine may see: a secret goes through standard input.
type TransferRequest struct {
	Op         string   `json:"op"`                 // pull, push, load, save, copy, receive, import, export, commit, login, logout, search or check; verify an image in the store; volume export, volume import; trust shows the signature policy
	Refs       []string `json:"refs,omitempty"`     // pull, push, verify: one; trust: at most one; save: one or more; copy: source and destination, each with its transport
	Platform   string   `json:"platform,omitempty"` // os/arch[/variant]; empty: this machine's
	File       string   `json:"file,omitempty"`     // load, save: a file, or a folder for a layout; export: a file; import: a file or URL; empty: standard input or output
	Format     string   `json:"format,omitempty"`   // save: docker-archive (default), oci-archive, oci-dir; trust: json, raw
	Lazy       bool     `json:"lazy,omitempty"`     // pull: layers that can be are read as they are needed, where TransferReply.Lazy says
	Insecure   bool     `json:"insecure,omitempty"` // pull: plain HTTP or an unverified certificate is allowed
	Quiet      bool     `json:"quiet,omitempty"`
	NoStatus   bool     `json:"noStatus,omitempty"`   // pull: the caller says what came of it
	AuthFile   string   `json:"authFile,omitempty"`   // credentials are in this file alone; login, logout: it is changed
	CertDir    string   `json:"certDir,omitempty"`    // more authorities and client certificates, named as in docker's certs.d
	Server     string   `json:"server,omitempty"`     // login, logout: HOST[:PORT]; empty: docker.io
	User       string   `json:"user,omitempty"`       // login: whose password standard input is; empty: try the stored credentials
	Term       string   `json:"term,omitempty"`       // search: [HOST/]TERM
	Limit      int      `json:"limit,omitempty"`      // search: results of each registry, 1 to 100; 0: 25
	Policy     string   `json:"policy,omitempty"`     // file of the signature policy, absolute; empty: the user's, else the system's
	StoreLimit int64    `json:"storeLimit,omitempty"` // of what the store may take, bytes, where its own limit is not less; 0: its own

	To           string `json:"to,omitempty"`           // push: another machine, ssh://[user@]host[:port][/path/to/brig]; empty: the image's registry
	AllTags      bool   `json:"allTags,omitempty"`      // pull, push: all tags of the repository that the reference names
	All          bool   `json:"all,omitempty"`          // copy: all platforms of an index, instead of one
	Referrers    bool   `json:"referrers,omitempty"`    // copy: also what refers to the image: signatures, attestations, SBOMs
	DestInsecure bool   `json:"destInsecure,omitempty"` // copy: as Insecure, which is then about the source

	Dirs      []string `json:"dirs,omitempty"`      // cdi: folders with specifications; Refs are the devices
	Volume    string   `json:"volume,omitempty"`    // volume export, volume import: the folder with its files
	Container string   `json:"container,omitempty"` // export, commit: whole ID
	Changes   []string `json:"changes,omitempty"`   // import, commit: Dockerfile instructions
	Author    string   `json:"author,omitempty"`    // commit
	Message   string   `json:"message,omitempty"`   // import, commit
	Freeze    string   `json:"freeze,omitempty"`    // commit: the control group that stands still while the files are read
	Repair    bool     `json:"repair,omitempty"`    // check
	Busy      []string `json:"busy,omitempty"`      // check: the IDs of containers that run

	Source     *CopyPlace `json:"source,omitempty"`     // cp
	Target     *CopyPlace `json:"target,omitempty"`     // cp
	FollowLink bool       `json:"followLink,omitempty"` // cp: the source's own name, where that is a symbolic link
	Archive    bool       `json:"archive,omitempty"`    // cp to this machine: files keep their owners
}

// CopyPlace is one end of a copy: a path on this machine, or in a container, or standard input or output as a tar.
type CopyPlace struct {
	Path      string `json:"path"`                // as typed; a slash at its end counts. "-" outside of a container: a stream
	Container string `json:"container,omitempty"` // whole ID; empty: this machine
	Pid       int    `json:"pid,omitempty"`       // of the container's first process, 0: it does not run
	Ticks     uint64 `json:"ticks,omitempty"`     // when that was started, as proc(5) has it
	Below     string `json:"below,omitempty"`     // the folder in that process's root that is the container's root; empty: the root itself
	// Of a container that runs in a user namespace: its ids to the host's.
	UIDMap []IDRange `json:"uidMap,omitempty"`
	GIDMap []IDRange `json:"gidMap,omitempty"`
	// Of a container that does not run: what its root is mounted of, and what in it.
	Root   []Mount     `json:"root,omitempty"`
	Mounts []MountSpec `json:"mounts,omitempty"` // with the host's path as Source
}

// TransferReply is what a transfer did.
type TransferReply struct {
	Images  []Image           `json:"images,omitempty"`
	Fresh   bool              `json:"fresh,omitempty"`   // pull: something new arrived
	Lazy    map[string]string `json:"lazy,omitempty"`    // pull: where layers are mounted that are read as they are needed, by diff ID; the worker serves them on
	Sent    []Sent            `json:"sent,omitempty"`    // push, copy: what stands in its new place
	Login   *Login            `json:"login,omitempty"`   // login, logout
	Found   []SearchResult    `json:"found,omitempty"`   // search
	Devices *DeviceEdits      `json:"devices,omitempty"` // cdi
	Thawed  bool              `json:"thawed,omitempty"`  // commit: what Freeze named runs again
	Check   *CheckReport      `json:"check,omitempty"`   // check
	Error   string            `json:"error,omitempty"`
	Kind    Kind              `json:"kind,omitempty"`
}

// Login is what login and logout did.
type Login struct {
	Server  string   `json:"server"`            // as docker names it: https://index.docker.io/v1/ for docker.io
	User    string   `json:"user,omitempty"`    // login with stored credentials: whose they are; empty: there are none
	Refused string   `json:"refused,omitempty"` // login with stored credentials: why the registry does not take them
	File    string   `json:"file,omitempty"`    // that was changed
	Helper  string   `json:"helper,omitempty"`  // the program that keeps the secret; empty: File has it, unencrypted
	Failed  string   `json:"failed,omitempty"`  // logout: what a helper could not do
	Others  []string `json:"others,omitempty"`  // logout: files that still have credentials
}

// SearchResult is a repository that a search found.
type SearchResult struct {
	Index       string `json:"index"` // the registry: docker.io
	Name        string `json:"name"`  // as one would pull it
	Description string `json:"description,omitempty"`
	Stars       int    `json:"stars,omitempty"`
	Official    bool   `json:"official,omitempty"`
	Automated   bool   `json:"automated,omitempty"`
}

// Sent is a manifest or an index that a transfer put somewhere.
type Sent struct {
	Name   string `json:"name,omitempty"` // push: the tag; copy: the destination
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes of the manifest
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
