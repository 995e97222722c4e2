package relay

import (
	"encoding/binary"
	"testing"
	"time"
)

// attributesOf is virtiofsd's answer about a file.
func attributesOf(ino, size, modified uint64) []byte {
	b := make([]byte, attrLen)
	for at, v := range map[int]uint64{0: ino, 8: size, 32: modified} {
		binary.LittleEndian.PutUint64(b[attrOut+at:], v)
	}
	return b
}

// changedAt has a time of change in them, too, in seconds of the epoch.
func changedAt(attributes []byte, at uint64) []byte {
	binary.LittleEndian.PutUint64(attributes[attrOut+40:], at)
	return attributes
}

func TestOpenedAgain(t *testing.T) {
	const begun = 1000 + 61 // seconds of the epoch: what was changed at 1000 is old enough
	f := files{}
	opened := func(node uint64, attributes []byte, at float64) bool {
		a := asked{op: opOpen, node: node}
		a.hold(make([]byte, openFlags+8))
		b := f.openedAgain(&a, attributes, time.Unix(begun, int64(at*1e9)))
		return b[openFlags]&keepCache != 0
	}
	failed := attributesOf(7, 10, 1000)
	failed[4] = 0xfe
	for i, step := range []struct {
		node       uint64
		attributes []byte
		at         float64 // seconds
		kept       bool
	}{
		{2, attributesOf(7, 10, 1000), 0, false},   // for the first time
		{2, attributesOf(7, 10, 1000), 0.9, false}, // somebody may still have old contents
		{2, attributesOf(7, 10, 1000), 1, true},
		{3, attributesOf(7, 10, 1000), 1, false}, // another
		{2, attributesOf(7, 11, 1000), 2, false}, // larger
		{2, attributesOf(7, 11, 1000), 3, true},
		{2, attributesOf(7, 11, 999), 4, false}, // its time was set
		{2, attributesOf(8, 11, 999), 5, false}, // the number is another file's
		{2, failed, 6, false},
		{2, attributesOf(8, 11, 999)[:attrLen-1], 6, false},
		{2, attributesOf(8, 11, 999), 6, true},
		{2, attributesOf(8, 11, 1060), 7, false}, // written to just now
		{2, attributesOf(8, 11, 1060), 58, false},
		{2, attributesOf(8, 11, 1060), 59, false}, // for the first time that it is quiet
		{2, attributesOf(8, 11, 1060), 60, true},
		{2, attributesOf(8, 11, 5000), 62, false}, // in the future
		{2, attributesOf(8, 11, 5000), 99, false},
		{4, changedAt(attributesOf(7, 10, 500), begun), 0, false}, // it was just unpacked
		{4, changedAt(attributesOf(7, 10, 500), begun), 2.5, false},
		{4, changedAt(attributesOf(7, 10, 500), begun), 3, false}, // for the first time that it has settled
		{4, changedAt(attributesOf(7, 10, 500), begun), 4, true},
	} {
		if got := opened(step.node, step.attributes, step.at); got != step.kept {
			t.Errorf("step %d: the guest keeps what it has read: %t, want %t", i, got, step.kept)
		}
	}
	for node := range uint64(mostFiles + 1) {
		opened(100+node, attributesOf(7, 10, 1000), 0)
	}
	if len(f) > mostFiles {
		t.Errorf("%d files are known", len(f))
	}
}

func TestOpened(t *testing.T) {
	question := make([]byte, inHeader)
	question[4], question[16] = opOpen, 9
	a := askedBy(question)
	answer := make([]byte, openFlags+8)
	if !a.opened(answer) || a.node != 9 {
		t.Errorf("%+v: no file is opened", a)
	}
	failed := append([]byte(nil), answer...)
	failed[4] = 1
	if a.opened(failed) || a.opened(answer[:openFlags+3]) || (&asked{op: opGetattr}).opened(answer) {
		t.Error("a file is opened by an error, half an answer, or another question")
	}
	if half := askedBy(question[:inHeader-1]); half.op != 0 {
		t.Errorf("half a question is %+v", half)
	}
	if a.hold(answer); a.opened(answer) {
		t.Error("a file is opened twice by one question")
	}
}
