package api

import "time"

// DiskUsage is what a store takes on the disk. The sizes of its types add up to Total, which is what du -s says of --root.
type DiskUsage struct {
	Total      int64            `json:"total"` // bytes, as all sizes here
	Limit      int64            `json:"limit"` // what it may take; 0: no limit
	Types      []TypeUsage      `json:"types"`
	Images     []ImageUsage     `json:"images"`
	Containers []ContainerUsage `json:"containers"`
	Volumes    []VolumeUsage    `json:"volumes"`
	Others     []OtherUsage     `json:"others"` // what Other is made of
}

// TypeUsage is one kind of things: Images, Containers, Local Volumes, Logs, Other.
type TypeUsage struct {
	Type        string `json:"type"`
	Total       int    `json:"total"`
	Active      int    `json:"active"` // of Total, in use
	Size        int64  `json:"size"`
	Reclaimable int64  `json:"reclaimable"`
}

// ImageUsage is an image with what it takes, blobs and unpacked layers together.
type ImageUsage struct {
	Image      Image `json:"image"`
	Size       int64 `json:"size"`
	Shared     int64 `json:"shared"` // of Size, with other images
	Containers int   `json:"containers"`
}

// ContainerUsage is a container with what its writable layer, records and logs take.
type ContainerUsage struct {
	Container Container `json:"container"`
	Size      int64     `json:"size"` // without logs
	Logs      int64     `json:"logs"`
	Volumes   int       `json:"volumes"`
}

// VolumeUsage is a volume with what it takes.
type VolumeUsage struct {
	Name      string `json:"name"`
	Anonymous bool   `json:"anonymous"`
	Links     int    `json:"links"` // containers that mount it
	Size      int64  `json:"size"`
}

// Volume is a volume with its name.
type Volume struct {
	Name       string
	Anonymous  bool // made for one container
	Created    time.Time
	Labels     map[string]string
	Options    map[string]string // of the driver, as given
	Size       int64             // bytes that it may hold; 0: what the disk has
	Mountpoint string            // where its files are on the host
	Users      []string          // IDs of the containers that have it
}

// OtherUsage is what is none of the other types: records, downloads that are not complete, trash.
type OtherUsage struct {
	What        string `json:"what"`
	Size        int64  `json:"size"`
	Reclaimable int64  `json:"reclaimable"`
}

// PruneOptions choose what prune removes. The zero value removes dangling images, or stopped containers, whatever their age and labels.
type PruneOptions struct {
	All       bool      // images: also those with names
	Until     time.Time // only what was created before; zero: any
	Labels    []string  // only what has all of these: KEY or KEY=VALUE
	NotLabels []string  // nothing that has one of these
}

// PruneReport is what prune removed.
type PruneReport struct {
	Containers []string // IDs
	Volumes    []string // names
	Networks   []string // names
	Images     []string // docker's lines: untagged: NAME, deleted: DIGEST
	Reclaimed  int64    // bytes
}

// CheckReport is what a check of the store found.
type CheckReport struct {
	Images     int       `json:"images"`
	Containers int       `json:"containers"`
	Blobs      int       `json:"blobs"`
	Layers     int       `json:"layers"`
	Bytes      int64     `json:"bytes"` // that were read
	Problems   []Problem `json:"problems"`
	// Leftovers are no damage: what nothing needs and prune removes.
	Leftovers []Problem `json:"leftovers"`
}

// Problem is one thing that is wrong in the store.
type Problem struct {
	Kind     string `json:"kind"` // blob, layer, image, container, volume, network, name, settings, version, leftover
	Name     string `json:"name"` // of the thing
	Path     string `json:"path,omitempty"`
	Trouble  string `json:"trouble"`
	Repaired string `json:"repaired,omitempty"` // what was done; empty: nothing, the problem stays
	Advice   string `json:"advice,omitempty"`   // what a user can do
}
