package api

import "github.com/opencontainers/runtime-spec/specs-go"

// DeviceEdits is what devices of the Container Device Interface (CDI) change in a container's configuration.
type DeviceEdits struct {
	Env    []string      `json:"env,omitempty"`
	Nodes  []DeviceNode  `json:"nodes,omitempty"`
	Mounts []specs.Mount `json:"mounts,omitempty"`
	Hooks  specs.Hooks   `json:"hooks,omitzero"`
	GIDs   []uint32      `json:"gids,omitempty"`
}

// DeviceNode is a device file of the host's in a container.
type DeviceNode struct {
	DeviceSpec
	Mode *uint32 `json:"mode,omitempty"` // permission bits; nil: the host's node's
	UID  *uint32 `json:"uid,omitempty"`
	GID  *uint32 `json:"gid,omitempty"`
}
