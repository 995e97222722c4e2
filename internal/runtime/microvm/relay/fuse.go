package relay

import (
	"encoding/binary"
	"time"
)

// virtiofsd has a guest forget what it has read of a file whenever somebody opens it: each program that starts has all that run forget the libraries that both have, and an emulator translates
// them again. So for each file that is opened virtiofsd is asked for its attributes, and the guest keeps what it has (FOPEN_KEEP_CACHE) where they are what they were when it was opened before,
// and say that nothing was written to it for long.

// Of linux/fuse.h.
const (
	inHeader, outHeader = 40, 16
	getattrLen          = inHeader + 16  // with struct fuse_getattr_in
	attrOut             = outHeader + 16 // struct fuse_attr_out has the attributes behind two numbers
	attrLen             = attrOut + 88   // with struct fuse_attr
	openFlags           = outHeader + 8  // in struct fuse_open_out

	opGetattr, opOpen = 3, 14

	keepCache = 2 // of open_flags
)

// asked is what has to be known of a request when it is answered.
type asked struct {
	op   uint32
	node uint64
	held []byte // the answer that the guest gets once there are the attributes; nil: it gets what comes
}

func askedBy(question []byte) (a asked) {
	if len(question) >= inHeader {
		a.op, a.node = binary.LittleEndian.Uint32(question[4:]), binary.LittleEndian.Uint64(question[16:])
	}
	return a
}

// opened reports whether the answer says that a file was opened.
func (a *asked) opened(answer []byte) bool {
	return a.op == opOpen && a.held == nil && len(answer) >= openFlags+4 && binary.LittleEndian.Uint32(answer[4:]) == 0
}

// hold keeps the answer back.
func (a *asked) hold(answer []byte) { a.held = append([]byte(nil), answer...) }

// askAttributes makes the question that opened a file the one for its attributes.
func askAttributes(question []byte) {
	binary.LittleEndian.PutUint32(question, getattrLen)
	binary.LittleEndian.PutUint32(question[4:], opGetattr)
	clear(question[inHeader:getattrLen])
}

// state is what is changed whenever a file is written to, or is another.
type state struct{ ino, size, modified, changed, nanoseconds uint64 }

// known is a file's state, and since when it is known.
type known struct {
	state
	since time.Time
}

// files are the states of files when they were opened last, by their nodes.
type files map[uint64]known

const (
	// settled is how long ago a file has to have been changed: until then it may be changed once more within a tick of its file system's clock.
	settled = 3 * time.Second
	// quiet is how long ago it has to have been written to: until then that may go on, by a call that has set the time already, or through a mapping, which sets it again when the page was
	// written back (vm.dirty_expire_centisecs and vm.dirty_writeback_centisecs of the host: 35 seconds).
	quiet = time.Minute
	// taken is how long a state has to be known: those who opened the file before have forgotten by then what they had read.
	taken = time.Second
)

// mostFiles is how many are known at a time: who forgets them has them read once more.
const mostFiles = 1 << 16

// openedAgain is the answer that was held back, now that there is one about the attributes.
func (f files) openedAgain(a *asked, attributes []byte, now time.Time) []byte {
	if f.same(a.node, attributes, now) {
		binary.LittleEndian.PutUint32(a.held[openFlags:], binary.LittleEndian.Uint32(a.held[openFlags:])|keepCache)
	}
	return a.held
}

// same reports whether a file is what it was when it was opened before. answer has its attributes.
func (f files) same(node uint64, answer []byte, now time.Time) bool {
	if len(answer) < attrLen || binary.LittleEndian.Uint32(answer[4:]) != 0 {
		return false
	}
	b := answer[attrOut:]
	at := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	s := state{ino: at(0), size: at(8), modified: at(32), changed: at(40), nanoseconds: at(52)}
	if int64(s.modified) > now.Add(-quiet).Unix() || int64(s.changed) > now.Add(-settled).Unix() {
		delete(f, node)
		return false
	}
	before, ok := f[node]
	if ok && before.state == s {
		return now.Sub(before.since) >= taken
	}
	if !ok && len(f) >= mostFiles {
		clear(f)
	}
	f[node] = known{s, now}
	return false
}
