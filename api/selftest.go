package api

// Probe is one attempt to get out of a container, and what came of it: `brig selftest escape`.
type Probe struct {
	Level    string `json:"level"` // of isolation, with ,userns where the container had a user namespace of its own
	Name     string `json:"probe"`
	What     string `json:"what"`     // is tried
	Expected string `json:"expected"` // of the level: ProbeHolds, ProbeOpen or ProbeOwn
	Found    string `json:"found"`
	How      string `json:"how"` // it held, or was got out
}

// What is expected of a wall, and found.
const (
	ProbeHolds = "holds"
	ProbeOpen  = "open"
	ProbeOwn   = "own" // what is got at is of the container's own kernel, not the host's
)

// Failed reports whether something does not hold that should.
func (p *Probe) Failed() bool { return p.Expected == ProbeHolds && p.Found != ProbeHolds }
