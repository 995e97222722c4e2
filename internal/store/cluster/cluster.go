// Package cluster says what the clusters of a packed layer are, whatever they are compressed with, and where a layer's archive is cut into them.
//
// Packages redeflate and rezstd make them of streams, and streams of them.
package cluster

import "errors"

const (
	// Size is how many bytes of the unpacked stream a cluster holds, but for one that goes up to a large file or to the end of one, and the last.
	Size = 512 << 10
	// Most is how many bytes of the unpacked stream a cluster can hold.
	Most = Size + maxTail + maxHeaders + tarBlock
	// MaxData is how long a cluster can be, in bytes: what EROFS takes.
	MaxData = 1 << 20
	// MaxRecipe bounds the recipe of one cluster, in bytes.
	MaxRecipe = 1 << 20
	// Min is how many bytes of the unpacked stream a cluster must hold that is not the last: EROFS wants a whole block between the beginnings of two.
	Min = 8192
	// FullRecipe is how many bytes of recipe end a cluster before it has its size.
	FullRecipe = 256 << 10
)

// ErrUnfit is the error of a stream that cannot be had back from clusters, though it can be unpacked: one that is made of empty blocks, say.
var ErrUnfit = errors.New("the stream cannot be kept in clusters")

// Cluster is one piece of the stream.
type Cluster struct {
	Offset int64  // in the unpacked stream
	Size   int    // unpacked
	Data   []byte // compressed, a stream of its own, at most MaxData; its first byte is not zero
	Recipe []byte // what else is needed to have the original stream back
}
