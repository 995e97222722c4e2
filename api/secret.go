package api

import "time"

// Secret is what containers are given that nobody else shall read. Its data are never part of it.
type Secret struct {
	ID      string            `json:"id"` // 25 hexadecimal digits
	Name    string            `json:"name"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// MaxSecret is how large a secret may be, in bytes: podman's limit.
const MaxSecret = 512000

// SecretSpec is one --secret.
type SecretSpec struct {
	Source string `json:"source"`           // name or ID
	Env    bool   `json:"env,omitempty"`    // a variable of the first process's, and exec's, instead of a file
	Target string `json:"target,omitempty"` // the file: absolute, or below /run/secrets; or the variable. Empty: the secret's name
	UID    uint32 `json:"uid,omitempty"`
	GID    uint32 `json:"gid,omitempty"`
	Mode   uint32 `json:"mode,omitempty"` // permission bits; 0: 0444
	Sum    string `json:"sum,omitempty"`  // checksum of the container's own copy, once there is one
}
