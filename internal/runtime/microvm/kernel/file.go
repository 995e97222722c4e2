package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A kernel that was taken is kept with what was found out about it behind the ELF file, which nobody who executes that looks at: an archive of its modules for the initial ramdisk, which may
// be empty, and a trailer with a mark, what the machine has to be, and offset and length of the archive, in eight bytes each, the low ones first.
const (
	mark        = "\x00brig kernel\x00"
	trailerSize = len(mark) + 24
	flagPC      = 1
	alignment   = 4096 // of the archive
)

// WriteTo writes the file that a machine's monitor takes.
func (k *Kernel) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(k.ELF)
	if err != nil {
		return int64(n), err
	}
	at, flags := (len(k.ELF)+alignment-1)&^(alignment-1), uint64(0)
	if k.PC {
		flags = flagPC
	}
	rest := append(make([]byte, at-len(k.ELF)), k.archive...)
	rest = append(rest, mark...)
	for _, v := range []uint64{flags, uint64(at), uint64(len(k.archive))} {
		rest = binary.LittleEndian.AppendUint64(rest, v)
	}
	more, err := w.Write(rest)
	return int64(n + more), err
}

// Behind is what a kernel's file says behind the kernel: whether its machine has to be a PC, and the archive of its modules, if it has any. Of a file without it found is false.
func Behind(f io.ReaderAt, size int64) (found, pc bool, modules *io.SectionReader, err error) {
	if size < int64(trailerSize) {
		return false, false, nil, nil
	}
	b := make([]byte, trailerSize)
	if _, err := f.ReadAt(b, size-int64(trailerSize)); err != nil && !errors.Is(err, io.EOF) {
		return false, false, nil, err
	}
	if string(b[:len(mark)]) != mark {
		return false, false, nil, nil
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(b[len(mark)+8*i:]) }
	flags, at, length := number(0), number(1), number(2)
	if end := uint64(size) - uint64(trailerSize); at > end || length != end-at || flags&^flagPC != 0 {
		return false, false, nil, errors.New("it is not whole")
	}
	if length > 0 {
		modules = io.NewSectionReader(f, int64(at), int64(length))
	}
	return true, flags&flagPC != 0, modules, nil
}

// Open is what a machine's monitor needs to know of a kernel's file, which is open as long as modules are read.
func Open(path string) (f *os.File, pc bool, modules *io.SectionReader, err error) {
	if f, err = os.Open(path); err != nil {
		return nil, false, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		_, pc, modules, err = Behind(f, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, false, nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	return f, pc, modules, nil
}
