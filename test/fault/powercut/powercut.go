// Package powercut is a file system that remembers what was done to it, so that a test can ask what any power cut would have left.
//
// A program works on a [FS], a FUSE file system whose files lie in memory. Each call that changes something becomes an [Op] of a [Trace]:
// names, bytes, attributes, and what was synced. [Trace.Cut] builds from a trace the tree that a cut after operation n may leave on the
// disk, by one of the rules below; [Tree.Write] writes it into a folder, where the program is started again. Since all of that is
// arithmetic on a trace, one run of a command gives thousands of power cuts.
//
// What a disk keeps, and what it may lose:
//
//   - fsync(2) of a file makes its bytes and attributes durable, not its name. fsync(2) of a folder makes the names in it durable, and with
//     a name the type, owner and mode that the file was made with, and a symbolic link's target. syncfs(2) and sync(2) make everything
//     durable that was done before. sync_file_range(2) promises nothing, as its manual says.
//   - A rename is one step: the disk has the old name or the new one, and a sync of either folder is a sync of both. No file system of Linux
//     that keeps a journal, or copies on write, does otherwise.
//   - All else may be lost, in any order: a later name may be there and an earlier one not, a name without the bytes that were written
//     before it (the empty file after a rename that no fsync preceded), the second half of a file without the first, or a part of the
//     last write. Two changes of one name, or of the names of one file, keep their order.
//
// syncfs(2) does not reach a file system in user space. [Command] runs a program under a seccomp filter that stops it at that one call, tells
// the trace, and lets it go on.
//
// A [FS] can also fail: the n-th operation, or all from the n-th on, give an error of the test's choice ([FS.Fail]). And it can hold the
// backing file of a loop device: then the trace is one of blocks and flushes, and a cut of it is a disk for the kernel's own ext4.
package powercut

import (
	"fmt"
	"strings"
	"time"
)

// Kind is what an operation does.
type Kind uint8

// Kinds of operations. The first group changes names, the second what a file is, the third makes durable.
const (
	Create   Kind = iota // Ino is new: file, folder, device, socket or link, under Name in Dir; without a Name it is a temporary one (O_TMPFILE)
	Link                 // Ino gets Name in Dir
	Unlink               // Ino loses Name in Dir
	Rename               // Ino goes from Name in Dir to Name2 in Dir2, over Ino2 where there is one
	Swap                 // Ino, Name in Dir, and Ino2, Name2 in Dir2, change places
	Write                // Data at Off
	Punch                // zeros at Off, Size bytes, not beyond the end
	Resize               // Size bytes
	Setattr              // Attr, as far as Set says
	Setxattr             // Name: Data
	Delxattr             // Name
	Fsync                // file or folder
	Datasync             // of a file: its bytes and its length
	Syncfs               // all
	Done                 // nothing: the test's own mark, Name
)

var kinds = [...]string{"create", "link", "unlink", "rename", "swap", "write", "punch", "resize", "setattr", "setxattr", "delxattr", "fsync", "fdatasync", "syncfs", "done"}

func (k Kind) String() string { return kinds[k] }

// Op is one operation that a file system carried out. Inodes have numbers that are never used again.
type Op struct {
	Kind      Kind
	Ino, Ino2 uint64
	Dir, Dir2 uint64
	Name      string
	Name2     string
	Data      []byte
	Off, Size int64
	Attr      Attr   // Create: all of it
	Set       Fields // Setattr
	Target    string // Create: of a symbolic link
	Whiteout  uint64 // Rename: the device 0:0 that took the old name
	Path      string // of Ino, or of what was named, when it was done: for whoever reads a trace
}

// Attr are an inode's attributes. Mode has the type as well.
type Attr struct {
	Mode, UID, GID, Rdev uint32
	Atime, Mtime         time.Time
}

// Fields says which attributes a Setattr sets.
type Fields uint8

// Attributes that can be set by themselves.
const (
	SetMode Fields = 1 << iota
	SetUID
	SetGID
	SetAtime
	SetMtime
)

func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", o.Kind, o.Path)
	switch o.Kind {
	case Rename, Swap:
		fmt.Fprintf(&b, " -> %s", o.Name2)
	case Write:
		fmt.Fprintf(&b, " %d bytes at %d", len(o.Data), o.Off)
	case Resize:
		fmt.Fprintf(&b, " to %d", o.Size)
	case Setxattr, Delxattr, Done:
		fmt.Fprintf(&b, " %s", o.Name)
	}
	return b.String()
}

// names reports whether the operation changes names.
func (k Kind) names() bool { return k <= Swap }

// syncs reports whether the operation makes others durable.
func (k Kind) syncs() bool { return k >= Fsync && k <= Syncfs }

// Trace is what was done to a file system, from a state that was durable.
type Trace struct {
	Base *Tree
	Ops  []Op
}

// Find returns the index after the last operation before the mark, or -1.
func (t *Trace) Find(mark string) int {
	for i := range t.Ops {
		if t.Ops[i].Kind == Done && t.Ops[i].Name == mark {
			return i
		}
	}
	return -1
}
