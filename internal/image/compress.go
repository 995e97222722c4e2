package image

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"brig/api"
)

// Compression is how a stream is packed.
type Compression string

// The compressions of layers and archives. The bytes decide, not the media type: so do docker and containerd.
const (
	Uncompressed Compression = ""
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

// Detect tells the compression from the first bytes of a stream.
func Detect(head []byte) Compression {
	switch {
	case len(head) >= 3 && head[0] == 0x1f && head[1] == 0x8b && head[2] == 8: // RFC 1952
		return Gzip
	case len(head) >= 4 && head[0] == 0x28 && head[1] == 0xb5 && head[2] == 0x2f && head[3] == 0xfd: // RFC 8878
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18: // a skippable frame first, as of zstd:chunked
		return Zstd
	}
	return Uncompressed
}

// maxWindow bounds the memory that a zstd frame can ask for, in bytes; zstd's own tool needs no more up to level 19, nor with --long.
const maxWindow = 128 << 20

// Decompress reads r unpacked, whatever its compression. Close frees the decompressor, not r. What the decompressor finds wrong is of kind
// api.Corrupt; so is an error of r without a kind, so a caller that must tell them apart keeps r's error itself.
// A stream that becomes too long, or too many times as long as it was packed, ends with api.Exhausted.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	in := &counted{r: r}
	br := bufio.NewReaderSize(in, 64<<10)
	head, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	limits, err := unpackLimits()
	if err != nil {
		return nil, "", err
	}
	switch kind := Detect(head); kind {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, kind, api.Errorf(api.Corrupt, "gzip: %w", err)
		}
		return newUnpacker(z, kind, in, limits), kind, nil
	case Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, kind, api.Errorf(api.Corrupt, "zstd: %w", err)
		}
		return newUnpacker(z.IOReadCloser(), kind, in, limits), kind, nil
	default:
		return io.NopCloser(br), kind, nil
	}
}
