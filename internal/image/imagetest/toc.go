package imagetest

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Annotations of layers that carry a table of contents.
const (
	StargzTOC       = "containerd.io/snapshot/stargz/toc.digest"
	ChunkedChecksum = "io.github.containers.zstd-chunked.manifest-checksum"
	ChunkedPosition = "io.github.containers.zstd-chunked.manifest-position"
)

// entry is a line of a table of contents, which both formats have.
type entry struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	Size        int64             `json:"size,omitempty"`
	ModTime     string            `json:"modtime,omitempty"`
	LinkName    string            `json:"linkName,omitempty"`
	Mode        int64             `json:"mode,omitempty"`
	UID         int               `json:"uid,omitempty"`
	GID         int               `json:"gid,omitempty"`
	DevMajor    int64             `json:"devMajor,omitempty"`
	DevMinor    int64             `json:"devMinor,omitempty"`
	Xattrs      map[string][]byte `json:"xattrs,omitempty"`
	Digest      string            `json:"digest,omitempty"`
	Offset      int64             `json:"offset,omitempty"`
	EndOffset   int64             `json:"endOffset,omitempty"`
	ChunkOffset int64             `json:"chunkOffset,omitempty"`
	ChunkSize   int64             `json:"chunkSize,omitempty"`
	ChunkDigest string            `json:"chunkDigest,omitempty"`
}

var entryTypes = map[byte]string{tar.TypeDir: "dir", tar.TypeReg: "reg", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink", tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo"}

// members packs an archive up to its end marker as both formats do: a stream of its own, made by pack, for each chunk of chunk bytes of a file and for what lies
// between. done is how much of the archive that was.
func members(archive []byte, chunk int64, pack func([]byte) []byte) (blob []byte, toc []entry, done int64, err error) {
	rest, end := bytes.NewReader(archive), int64(0)
	flush := func(end int64) {
		if end > done {
			blob = append(blob, pack(archive[done:end])...)
			done = end
		}
	}
	for r := tar.NewReader(rest); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, 0, err
		}
		e := entry{Name: strings.TrimPrefix(h.Name, "./"), Type: entryTypes[h.Typeflag], ModTime: h.ModTime.UTC().Format(time.RFC3339), LinkName: h.Linkname,
			Mode: h.Mode, UID: h.Uid, GID: h.Gid, DevMajor: h.Devmajor, DevMinor: h.Devminor}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				if e.Xattrs == nil {
					e.Xattrs = map[string][]byte{}
				}
				e.Xattrs[name] = []byte(v)
			}
		}
		begin := int64(len(archive)) - int64(rest.Len())
		end = begin + (h.Size+511)/512*512 // a link has no size here
		if h.Typeflag != tar.TypeReg || h.Size == 0 {
			toc = append(toc, e)
			continue
		}
		e.Size, e.Digest = h.Size, digest.FromBytes(archive[begin:begin+h.Size]).String()
		flush(begin)
		for at := int64(0); at < h.Size; at += chunk {
			n := min(chunk, h.Size-at)
			if at > 0 {
				e = entry{Name: e.Name, Type: "chunk", ChunkOffset: at}
			}
			e.Offset, e.ChunkDigest = int64(len(blob)), digest.FromBytes(archive[begin+at:begin+at+n]).String()
			if h.Size > chunk {
				e.ChunkSize = n
			}
			flush(begin + at + n)
			e.EndOffset = int64(len(blob))
			toc = append(toc, e)
		}
	}
	flush(end)
	return blob, toc, done, nil
}

// EStargz packs an archive as an eStargz layer with chunks of chunk bytes, and returns the annotations of its descriptor too. The blob's archive has the table of contents as a file more.
func EStargz(archive []byte, chunk int64) ([]byte, map[string]string, error) {
	blob, entries, _, err := members(archive, chunk, Gzip)
	if err != nil {
		return nil, nil, err
	}
	for i := range entries {
		entries[i].EndOffset = 0
	}
	toc, err := json.Marshal(map[string]any{"version": 1, "entries": entries})
	if err != nil {
		return nil, nil, err
	}
	var tail bytes.Buffer
	w := tar.NewWriter(&tail)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "stargz.index.json", Size: int64(len(toc))}); err != nil {
		return nil, nil, err
	}
	w.Write(toc)
	w.Close()
	at := len(blob)
	blob = append(blob, Gzip(tail.Bytes())...)
	var footer bytes.Buffer
	z, err := stdgzip.NewWriterLevel(&footer, stdgzip.NoCompression) // 51 bytes, which other writers do not make
	if err != nil {
		return nil, nil, err
	}
	z.Extra = append([]byte{'S', 'G', 22, 0}, fmt.Sprintf("%016xSTARGZ", at)...)
	z.Close()
	return append(blob, footer.Bytes()...), map[string]string{StargzTOC: digest.FromBytes(toc).String()}, nil
}

// Chunked packs an archive as a zstd:chunked layer with chunks of chunk bytes, and returns the annotations of its descriptor too.
func Chunked(archive []byte, chunk int64) ([]byte, map[string]string, error) {
	blob, entries, end, err := members(archive, chunk, Zstd)
	if err != nil {
		return nil, nil, err
	}
	blob = append(blob, Zstd(archive[end:])...)
	toc, err := json.Marshal(map[string]any{"version": 1, "entries": entries})
	if err != nil {
		return nil, nil, err
	}
	le, packed := binary.LittleEndian, Zstd(toc)
	skip := func(b []byte) []byte {
		return append(le.AppendUint32(le.AppendUint32(nil, 0x184d2a50), uint32(len(b))), b...)
	}
	at := len(blob) + 8
	blob = append(blob, skip(packed)...)
	var footer []byte
	for _, n := range []uint64{uint64(at), uint64(len(packed)), uint64(len(toc)), 1, 0, 0, 0} {
		footer = le.AppendUint64(footer, n)
	}
	blob = append(blob, skip(append(footer, "GNUlInUx"...))...)
	return blob, map[string]string{ChunkedChecksum: digest.FromBytes(packed).String(), ChunkedPosition: fmt.Sprintf("%d:%d:%d:1", at, len(packed), len(toc))}, nil
}

// Unpacked is the archive in a blob that Gzip, Zstd, EStargz or Chunked made.
func Unpacked(blob []byte) ([]byte, error) {
	if len(blob) > 0 && blob[0] == 0x1f {
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	}
	z, err := zstd.NewReader(bytes.NewReader(blob))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}
