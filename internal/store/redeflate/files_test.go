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
)

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
func inPlace(clusters []Cluster, plain []byte) error {
	begins := map[int64]bool{}
	for i, c := range clusters {
		begins[c.Offset] = true
		if i > 0 && i < len(clusters)-1 && c.Size < minCluster {
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
		if h.Typeflag != tar.TypeReg || h.Size < LargeFile || begins[at] {
			continue
		}
		before := 0
		for before+1 < len(clusters) && clusters[before+1].Offset < at {
			before++
		}
		if at-clusters[before].Offset >= minCluster {
			return fmt.Errorf("%s, of %d bytes, begins at %d, within the cluster of %d", h.Name, h.Size, at, clusters[before].Offset)
		}
	}
}

// TestLargeFiles: clusters begin with large files, wherever the symbols of the stream end, and the stream is had back.
func TestLargeFiles(t *testing.T) {
	for i, sizes := range [][]int{
		{LargeFile},
		{9000, LargeFile},
		{9000, LargeFile - 1, LargeFile, LargeFile + 1},
		{100, LargeFile, 200, LargeFile, LargeFile, LargeFile}, // one that is too near to the beginning
		{9000, ClusterSize - 1, ClusterSize, ClusterSize + 1, ClusterSize + tarBlock, 2 * ClusterSize},
		{9000, ClusterSize - tarBlock, ClusterSize - 2*tarBlock, 5, LargeFile},
		{9000, ClusterSize + maxTail - 1, ClusterSize + maxTail, ClusterSize + maxTail + 1, ClusterSize + maxTail + tarBlock, LargeFile},
		{9000, ClusterSize + minCluster, LargeFile, ClusterSize + minCluster, LargeFile, 7, 7, 7, 7, 7, LargeFile},
		{ClusterSize - 2*tarBlock - 1, LargeFile, ClusterSize - 4*tarBlock, LargeFile, 3*ClusterSize + 17},
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
		for i, size := range []int{9000, LargeFile} {
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
	stream := pack(t, 6, archive(t, 9000, LargeFile, 12345, 2*ClusterSize))
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

// TestOctal: numbers of headers, of whatever program.
func TestOctal(t *testing.T) {
	for field, want := range map[string]int64{
		"00000001750\x00":  1000,
		"       1750 ":     1000,
		"1750 \x00\x00":    1000,
		"\x00\x00\x00":     0,
		"\x80\x00\x00\x01": 1,
		"\x80\x00\x01\x00": 256,
		"00000001758\x00":  -1,
		"\xff\xff\xff\xff": -1,
		"\x80" + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff": -1,
	} {
		if got, ok := octal([]byte(field)); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v", field, got, ok)
		}
	}
}
