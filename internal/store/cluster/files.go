package cluster

import "math"

// LargeFile is how many bytes a file must have for a cluster to begin where it does. Files below it share clusters: each cut costs some 8 KiB, and
// files of this size and more are three quarters of what layers hold.
const LargeFile = 128 << 10

// HeaderKnown is how many bytes of an archive's header tell kind and size.
const HeaderKnown = 157

const (
	tarBlock   = 512
	maxTail    = 32 << 10  // bytes of a large file that are too few for a cluster of their own
	maxHeaders = 4096      // bytes that may lie between the ends of two files, with a header in them that has extensions
	maxSize    = 1<<50 - 1 // bytes of a file; more are no size
)

// Files follows a tar archive and knows where its large files lie. It is to be shown each header before more than half of the next block is unpacked, and
// decides where clusters end. A stream that is no archive has no large files; what it says of one that is malformed is of no harm.
type Files struct {
	Next       int64 // offset of the next header; math.MaxInt64: there is none
	begin, fin int64 // of the last large file, with the padding after it
}

// Known is where, in a buffer that begins at an offset of the stream, the next header can be understood.
func (f *Files) Known(offset int64) int {
	return int(min(f.Next-offset, math.MaxInt32/2)) + HeaderKnown
}

// End is the offset at which a cluster ends that begins at start, as far as is known.
func (f *Files) End(start int64) int64 {
	end := start + Size
	switch {
	case f.begin >= start+Min:
		return f.begin
	case f.fin > end && f.fin <= end+maxTail:
		return f.fin + maxHeaders // if a large file follows, its header will say so
	}
	return end
}

// Header takes note of a header, of which HeaderKnown bytes are there at least.
func (f *Files) Header(b []byte) {
	size, ok := octal(b[124:136])
	if b[0] == 0 || !ok || size > maxSize {
		f.Next = math.MaxInt64
		return
	}
	begin := f.Next + tarBlock
	f.Next = begin
	switch kind := b[HeaderKnown-1]; kind {
	case '1', '2', '3', '4', '5', '6': // links, devices, folders and fifos have no content, whatever the size says
	default:
		f.Next += (size + tarBlock - 1) &^ (tarBlock - 1)
		if (kind == '0' || kind == 0 || kind == '7') && size >= LargeFile {
			f.begin, f.fin = begin, f.Next
		}
	}
}

// octal reads a number of a header: octal digits, or GNU's binary with the highest bit set.
func octal(b []byte) (n int64, ok bool) {
	if b[0] == 0x80 {
		for _, c := range b[1:] {
			if n > maxSize {
				return 0, false
			}
			n = n<<8 | int64(c)
		}
		return n, true
	}
	i := 0
	for i < len(b) && b[i] == ' ' {
		i++
	}
	for ; i < len(b) && b[i] >= '0' && b[i] <= '7'; i++ {
		n = n<<3 | int64(b[i]-'0')
	}
	for _, c := range b[i:] {
		if c != 0 && c != ' ' {
			return 0, false
		}
	}
	return n, true
}
