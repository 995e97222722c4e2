package wire

import "encoding/json"

// A pod's machine has the containers of its members beside that of First. Each is a process on a stream of its own, and so is each process in one.

// MembersDir is the folder, in the tree that the machine sees, with a member's tree under the name of its run.
const MembersDir = "/.members"

// Member is the body of a Start that is about a member: its own process, or one more in it.
type Member struct {
	Member string          `json:"member"`
	Config json.RawMessage `json:"config,omitempty"` // of a container that is to be built: the user's OCI configuration
	Exec   json.RawMessage `json:"exec,omitempty"`   // of a process in one that is there
}
