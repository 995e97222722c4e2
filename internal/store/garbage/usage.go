package garbage

import (
	"context"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/store/snapshot"
	"brig/internal/store/usage"
)

// The units that --root is measured in, by what they are: see [Stores.Usage].
const (
	BlobUnits   = "content/blobs/"   // ALGORITHM/HEX
	LayerUnits  = "snapshot/layer/"  // HEX
	ActiveUnits = "snapshot/active/" // ID of a container
	// ShiftedUnits are layers with the owners of a normal user's container that has a user namespace.
	ShiftedUnits = "snapshot/shifted/"
	IngestUnits  = "content/ingest/" // a blob on its way in
	partUnits    = "content/ingest/partial/"
	unpackUnits  = "snapshot/unpack/" // a layer on its way in or out
	trashUnits   = "trash/"
	// QuarantineUnits are damaged pieces, put aside while a repair fetches them again.
	QuarantineUnits = "quarantine/"
	leaseUnits      = leaseDir + "/"
	holdUnits       = reserveDir + "/"

	// ContainerUnits are followed by the container's ID; what is in its folder log is of the unit ID/log.
	ContainerUnits = "container/"
	// VolumeUnits are followed by the volume's name.
	VolumeUnits = "volume/"
)

// Usage measures all of --root. Each object is of one unit: a blob, a layer, a container's writable layer, folder or logs, a volume, a piece that
// came in partly or is on its way out, or else the first part of its path.
func (s Stores) Usage(ctx context.Context) (usage.Usage, error) {
	return usage.Measure(ctx, s.Root, unit)
}

func unit(path string) (string, bool) {
	parts := strings.Split(path, "/")
	switch {
	case parts[0] == "container" && len(parts) == 3:
		if parts[2] == "log" {
			return path, true
		}
		return parts[0] + "/" + parts[1], true
	case parts[0] == "container" && len(parts) == 2:
		return path, false
	case path == strings.TrimSuffix(partUnits, "/"):
		return "content", false
	}
	for _, units := range [...]string{partUnits, IngestUnits, LayerUnits, ActiveUnits, ShiftedUnits, unpackUnits, trashUnits, QuarantineUnits, leaseUnits, holdUnits, VolumeUnits} {
		if name, ok := strings.CutPrefix(path, units); ok && name != "" {
			return path, true
		}
	}
	if rest, ok := strings.CutPrefix(path, BlobUnits); ok && strings.Contains(rest, "/") {
		return path, true
	}
	return parts[0], false
}

// A Leftover is something under --root that nothing needs and nobody is at work on.
type Leftover struct {
	Unit  string `json:"path"` // relative to --root
	What  string `json:"what"`
	Bytes int64  `json:"bytes"`
}

// leftovers lists, in order, what of u nothing needs.
func (s Stores) leftovers(u usage.Usage, need *needs) []Leftover {
	var all []Leftover
	containers := map[string]bool{}
	for name := range u.Units {
		if id, ok := strings.CutPrefix(name, ContainerUnits); ok {
			containers[id] = true
		}
	}
	needed := map[string]bool{}
	for d := range need.blobs {
		needed[blobUnit(d)] = true
	}
	for d := range need.layers {
		needed[layerUnit(d)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(u.Units)) {
		path := filepath.Join(s.Root, name)
		what := ""
		is := func(units string) bool { return strings.HasPrefix(name, units) }
		switch {
		case is(BlobUnits) && !needed[name] && need.blobDoubt == nil:
			what = "blob of no image"
		case is(LayerUnits) && !needed[name] && need.layerDoubt == nil:
			what = "layer of no image"
		case is(ShiftedUnits) && !need.shifted[snapshot.ShiftedName(filepath.Base(path))] && need.layerDoubt == nil:
			what = "layer for a user namespace of no container"
		case is(partUnits) && !lock.Held(path):
			what = "partial download"
		case is(IngestUnits) && !lock.Held(path):
			what = "broken-off download"
		case is(unpackUnits) && !lock.Held(unpackLock(path)):
			what = "broken-off unpacking, or the beginning of a layer"
		case is(trashUnits):
			what = "trash"
		case is(QuarantineUnits):
			what = "damaged piece of a repair"
		case is(leaseUnits) && !lock.Held(path):
			what = "lease of a dead process"
		case is(holdUnits) && isHold(filepath.Base(path)) && !lock.Held(path):
			what = "reservation of a dead process"
		case is(ActiveUnits) && !containers[filepath.Base(path)]:
			what = "writable layer of no container"
		}
		if what != "" {
			all = append(all, Leftover{name, what, u.Units[name]})
		}
	}
	return all
}

// unpackLock is the lock of a layer on its way in, of which the path is one: HEX, HEX.old or the lock itself.
func unpackLock(path string) string {
	return strings.TrimSuffix(strings.TrimSuffix(path, ".old"), ".lock") + ".lock"
}

// inFlight is how much of u is on its way in, by processes that live: it is in their reservations already.
func (s Stores) inFlight(u usage.Usage) (sum int64) {
	for name, n := range u.Units {
		path := filepath.Join(s.Root, name)
		if strings.HasPrefix(name, IngestUnits) && lock.Held(path) ||
			strings.HasPrefix(name, unpackUnits) && lock.Held(unpackLock(path)) {
			sum += n
		}
	}
	return sum
}

// Leftovers lists what nothing needs, and what the whole store takes.
func (s Stores) Leftovers(ctx context.Context) (usage.Usage, []Leftover, error) {
	l, err := s.Lock()
	if err != nil {
		return usage.Usage{}, nil, err
	}
	defer l.Release()
	need, err := s.needed()
	if err != nil {
		return usage.Usage{}, nil, err
	}
	u, err := s.Usage(ctx)
	if err != nil {
		return u, nil, err
	}
	return u, s.leftovers(u, need), nil
}

// LayerUnit is the unit of an unpacked layer.
func LayerUnit(diffID digest.Digest) string { return layerUnit(diffID) }

// UnitsOf lists the units that an image consists of, some of them perhaps twice.
func (s Stores) UnitsOf(img api.Image) iter.Seq[string] { return s.Of(img).units }

// UnitsOfBlob lists the units that a blob consists of.
func (s Stores) UnitsOfBlob(d digest.Digest) iter.Seq[string] { return s.OfBlob(d).units }

func (set Set) units(yield func(string) bool) {
	for _, d := range set.Blobs {
		if !yield(blobUnit(d)) {
			return
		}
	}
	for _, d := range set.Layers {
		if !yield(layerUnit(d)) {
			return
		}
	}
}
