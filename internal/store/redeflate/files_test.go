package redeflate

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"

	"brig/internal/store/cluster"
)

// The numbers of an archive, and how little of a large file's end belongs to the cluster before.
const tarBlock, maxTail = 512, 32 << 10

// archive has files of the given sizes. Some begin with zeros, as programs nearly do, or as the one before, so that matches reach into them.
func archive(t testing.TB, sizes ...int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, size := range sizes {
		content := text(size, uint64(i/3))
		if i%2 == 1 {
			clear(content[:min(size, 300*i)])
		}
		h := &tar.Header{Name: "file" + strconv.Itoa(i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}
		if i%5 == 4 { // with a header of its own for a long name
			h.Name = string(bytes.Repeat([]byte("d/"), 120)) + h.Name
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inPlace tells whether clusters begin where the large files of an archive do, and large files have no end that is too short to be found.
func inPlace(clusters []cluster.Cluster, plain []byte) error {
	begins := map[int64]bool{}
	for i, c := range clusters {
		begins[c.Offset] = true
		if i > 0 && i < len(clusters)-1 && c.Size < cluster.Min {
			return fmt.Errorf("cluster %d at %d has %d bytes", i, c.Offset, c.Size)
		}
	}
	in := bytes.NewReader(plain)
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err != nil {
			return nil // at its end, or no archive
		}
		at := int64(len(plain) - in.Len())
		if h.Typeflag != tar.TypeReg || h.Size < cluster.LargeFile || begins[at] {
			continue
		}
		before := 0
		for before+1 < len(clusters) && clusters[before+1].Offset < at {
			before++
		}
		if at-clusters[before].Offset >= cluster.Min {
			return fmt.Errorf("%s, of %d bytes, begins at %d, within the cluster of %d", h.Name, h.Size, at, clusters[before].Offset)
		}
	}
}

// TestLargeFiles: clusters begin with large files, wherever the symbols of the stream end, and the stream is had back.
func TestLargeFiles(t *testing.T) {
	for i, sizes := range [][]int{
		{cluster.LargeFile},
		{9000, cluster.LargeFile},
		{9000, cluster.LargeFile - 1, cluster.LargeFile, cluster.LargeFile + 1},
		{100, cluster.LargeFile, 200, cluster.LargeFile, cluster.LargeFile, cluster.LargeFile}, // one that is too near to the beginning
		{9000, cluster.Size - 1, cluster.Size, cluster.Size + 1, cluster.Size + tarBlock, 2 * cluster.Size},
		{9000, cluster.Size - tarBlock, cluster.Size - 2*tarBlock, 5, cluster.LargeFile},
		{9000, cluster.Size + maxTail - 1, cluster.Size + maxTail, cluster.Size + maxTail + 1, cluster.Size + maxTail + tarBlock, cluster.LargeFile},
		{9000, cluster.Size + cluster.Min, cluster.LargeFile, cluster.Size + cluster.Min, cluster.LargeFile, 7, 7, 7, 7, 7, cluster.LargeFile},
		{cluster.Size - 2*tarBlock - 1, cluster.LargeFile, cluster.Size - 4*tarBlock, cluster.LargeFile, 3*cluster.Size + 17},
	} {
		plain := archive(t, sizes...)
		for _, level := range []int{-2, 0, 1, 6, 9} {
			roundTrip(t, fmt.Sprint(sizes, " at level ", level), pack(t, level, plain), plain)
		}
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, 1+i%9)
		w.Write(plain)
		w.Close()
		roundTrip(t, fmt.Sprint(sizes, " of klauspost's"), b.Bytes(), plain)
		members := slices.Concat(pack(t, 6, plain[:len(plain)/3]), pack(t, 9, nil), pack(t, 1, plain[len(plain)/3:]))
		roundTrip(t, fmt.Sprint(sizes, " in members"), members, plain)

		k := &kept{}
		got, err := io.ReadAll(NewStored(iotest.HalfReader(bytes.NewReader(plain)), k.emit))
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%v stored: %v", sizes, err)
		}
		if err := inPlace(k.clusters, plain); err != nil {
			t.Fatalf("%v stored: %v", sizes, err)
		}
		if again, err := k.rebuild(); err != nil || !bytes.Equal(again, plain) {
			t.Fatalf("%v stored: rebuilt %d bytes of %d: %v", sizes, len(again), len(plain), err)
		}
	}
}

// TestCutWithinMatch: a cluster that ends at any byte of a match, of any length.
func TestCutWithinMatch(t *testing.T) {
	for n := range 2 * maxMatch {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i, size := range []int{9000, cluster.LargeFile} {
			content := text(size, uint64(i))
			copy(content, bytes.Repeat([]byte{byte(i)}, 10)) // else it would be taken for the end of the header
			w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)})
			w.Write(content)
		}
		w.Close()
		plain := b.Bytes()
		begin := tarBlock + (9000+tarBlock-1)&^(tarBlock-1) + tarBlock
		copy(plain[begin-maxMatch:], bytes.Repeat([]byte("pattern"), 100)[:min(n, maxMatch)]) // what was there is of no meaning, beyond the header's first half
		copy(plain[begin:], bytes.Repeat([]byte("pattern"), 100)[min(n, maxMatch):][:max(0, n-maxMatch)])
		roundTrip(t, strconv.Itoa(n), pack(t, 6+n%4, plain), plain)
	}
}

// TestCutShort: of an archive that ends anywhere there is an error, and of what is there all can be had back.
func TestCutShort(t *testing.T) {
	stream := pack(t, 6, archive(t, 9000, cluster.LargeFile, 12345, 2*cluster.Size))
	for n := range 97 {
		part := stream[:len(stream)*n/97]
		k := &kept{}
		if _, err := io.ReadAll(NewReader(bytes.NewReader(part), k.emit)); err == nil {
			t.Fatalf("cut at %d of %d: no error", len(part), len(stream))
		}
		again, err := k.rebuild()
		if errors.Is(err, errRecipe) { // it ends within a byte: what came before is there
			err = nil
		}
		if err != nil || !bytes.HasPrefix(part, again) {
			t.Fatalf("cut at %d: rebuilt %d bytes: %v", len(part), len(again), err)
		}
	}
}
