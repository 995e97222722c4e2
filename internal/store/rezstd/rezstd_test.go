package rezstd

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"brig/api"
	"brig/internal/store/cluster"
	"brig/internal/store/lz4"

	"github.com/klauspost/compress/zstd"
)

// kept is what an emit keeps of clusters.
type kept struct{ clusters []cluster.Cluster }

func (k *kept) emit(c cluster.Cluster) error {
	c.Data, c.Recipe = bytes.Clone(c.Data), bytes.Clone(c.Recipe)
	k.clusters = append(k.clusters, c)
	return nil
}

// rebuild gives the stream, and what it is told to hold unpacked.
func (k *kept) rebuild() (stream, plain []byte, err error) {
	rest := k.clusters
	stream, err = io.ReadAll(Rebuild(func() ([]byte, []byte, error) {
		if len(rest) == 0 {
			return nil, nil, io.EOF
		}
		c := rest[0]
		rest = rest[1:]
		return c.Data, c.Recipe, nil
	}, func(b []byte) { plain = append(plain, b...) }))
	return stream, plain, err
}

// read unpacks a stream.
func read(stream []byte, k *kept) ([]byte, error) {
	z := NewReader(iotest.HalfReader(bytes.NewReader(stream)), k.emit)
	defer z.Close()
	return io.ReadAll(z)
}

// roundTrip unpacks a stream, and each cluster, and rebuilds the stream.
func roundTrip(t *testing.T, name string, stream, want []byte) *kept {
	t.Helper()
	k := &kept{}
	got, err := read(stream, k)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: unpacked %d bytes of %d, equal %v: %v", name, len(got), len(want), bytes.Equal(got, want), err)
	}
	var at int64
	for i, c := range k.clusters {
		plain, err := lz4.Unpack(nil, c.Data, cluster.Most)
		if err != nil || c.Offset != at || c.Size > 0 && !bytes.Equal(plain, want[at:at+int64(c.Size)]) {
			t.Fatalf("%s: cluster %d at %d (%d), size %d (%d): %v", name, i, c.Offset, at, c.Size, len(plain), err)
		}
		if len(c.Data) > cluster.MaxData || len(c.Data) == 0 || c.Size > 0 && (c.Data[0] == 0 || c.Size < cluster.Min && at+int64(c.Size) < int64(len(want))) {
			t.Fatalf("%s: cluster %d of %d bytes has %d", name, i, c.Size, len(c.Data))
		}
		at += int64(c.Size)
	}
	if at != int64(len(want)) {
		t.Fatalf("%s: the clusters hold %d bytes of %d", name, at, len(want))
	}
	again, plain, err := k.rebuild()
	if err != nil || !bytes.Equal(again, stream) || !bytes.Equal(plain, want) {
		t.Fatalf("%s: rebuilt %d bytes of %d, holding %d of %d: %v", name, len(again), len(stream), len(plain), len(want), err)
	}
	return k
}

// pack compresses by klauspost's encoder, as a stream.
func pack(t testing.TB, data []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, append([]zstd.EOption{zstd.WithEncoderConcurrency(1)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// reference compresses by zstd(1). It is not ok where that is not installed.
func reference(t testing.TB, data []byte, args ...string) ([]byte, bool) {
	t.Helper()
	if _, err := exec.LookPath("zstd"); err != nil {
		return nil, false
	}
	c := exec.Command("zstd", append(args, "-q", "-c")...)
	c.Stdin = bytes.NewReader(data)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("zstd %q: %v", args, err)
	}
	return out, true
}

// text is data as files have it: words that come again and again, near and far, and noise.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([]string, 3000)
	for i := range words {
		b := make([]byte, 2+r.IntN(12))
		for j := range b {
			b[j] = byte('a' + r.IntN(26))
		}
		words[i] = string(b)
	}
	var b bytes.Buffer
	for b.Len() < n {
		switch r.IntN(40) {
		case 0:
			b.Write(noise(r.IntN(3000), r))
		case 1:
			b.Write(make([]byte, r.IntN(5000)))
		case 2:
			if have := b.Len(); have > 100 {
				from := r.IntN(have)
				b.Write(bytes.Clone(b.Bytes()[from:min(have, from+r.IntN(40000))]))
			}
		default:
			b.WriteString(words[int(r.ExpFloat64()*300)%len(words)])
			b.WriteByte(' ')
		}
	}
	return b.Bytes()[:n]
}

func noise(n int, r *rand.Rand) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// skippable is a frame to be skipped.
func skippable(n int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, skipMagic+7)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	return append(b, noise(n, rand.New(rand.NewPCG(9, 9)))...)
}

var sizes = []int{0, 1, 5, 100, 255, 256, 1000, 1024, 4096, 17000, maxBlock - 1, maxBlock, maxBlock + 1, cluster.Size - 1, cluster.Size, cluster.Size + 1, 3*cluster.Size + 12345}

// TestRoundTrip: streams of klauspost's encoder, with all that it can do.
func TestRoundTrip(t *testing.T) {
	for _, n := range sizes {
		data := text(n, uint64(n))
		for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression} {
			for _, o := range [][]zstd.EOption{nil, {zstd.WithEncoderCRC(false), zstd.WithWindowSize(1 << 10)}, {zstd.WithSingleSegment(true)}, {zstd.WithNoEntropyCompression(true)}} {
				name := fmt.Sprintf("%d bytes at %v with %d options", n, level, len(o))
				if stream := pack(t, data, append(o, zstd.WithEncoderLevel(level))...); len(stream) > 0 {
					roundTrip(t, name, stream, data)
				}
				w, err := zstd.NewWriter(nil, append(o, zstd.WithEncoderLevel(level), zstd.WithZeroFrames(true))...)
				if err != nil {
					t.Fatal(err)
				}
				roundTrip(t, name+", at once", w.EncodeAll(data, nil), data)
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	zeros, random := make([]byte, 3*cluster.Size), noise(3*cluster.Size, r)
	roundTrip(t, "zeros", pack(t, zeros), zeros)
	roundTrip(t, "noise", pack(t, random), random)
}

// TestReference: streams of zstd(1), at each of its levels. They have every kind of literals, and of tables.
func TestReference(t *testing.T) {
	data := append(text(1500000, 7), bytes.Repeat([]byte{'x'}, 300000)...)
	for i := range 3000 { // little of it is unlike what was before: codes and tables are used again
		data = append(data, fmt.Sprintf("%d: a line of a log with a number, %d\n", i, i*i%977)...)
	}
	data = append(data, noise(200000, rand.New(rand.NewPCG(2, 2)))...)
	// Records that come again in another order, each with the same other byte behind it: matches of one length, literals of one kind.
	r := rand.New(rand.NewPCG(6, 6))
	records := noise(40*6000, r)
	for i := range 6000 {
		data = append(append(data, records[40*i:40*i+40]...), 'y')
	}
	for _, i := range r.Perm(6000) {
		data = append(append(data, records[40*i:40*i+40]...), 'x')
	}
	var args [][]string
	for level := 1; level <= 19; level++ {
		args = append(args, []string{"-" + strconv.Itoa(level)})
	}
	args = append(args, []string{"--fast=1"}, []string{"--fast=50"}, []string{"--ultra", "-22", "--zstd=wlog=23"}, []string{"--no-check", "-3"}, []string{"-3", "-T2", "-B512K"}, []string{"--rsyncable", "-5"}, []string{"--zstd=wlog=10"},
		[]string{"--zstd=wlog=23", "-12"}, []string{"--zstd=minMatch=3,strategy=7", "-9"}, []string{"--no-compress-literals"}, []string{"--compress-literals", "--fast=20"})
	seen := map[string]int{}
	for _, a := range args {
		stream, ok := reference(t, data, a...)
		if !ok {
			t.Skip("zstd is not installed")
		}
		roundTrip(t, strings.Join(a, " "), stream, data)
		survey(t, stream, seen)
		for _, n := range []int{1, 20, 300, 5000} {
			stream, _ := reference(t, data[:n], a...)
			roundTrip(t, fmt.Sprintf("%d bytes with %q", n, a), stream, data[:n])
			survey(t, stream, seen)
		}
	}
	for _, want := range []string{"block 0", "block 1", "block 2", "literals 0", "literals 1", "literals 2", "literals 3", "streams 1", "streams 4", "no sequences",
		"mode 0 of 0", "mode 0 of 1", "mode 0 of 2", "mode 1 of 0", "mode 1 of 1", "mode 1 of 2", "mode 2 of 0", "mode 2 of 1", "mode 2 of 2", "mode 3 of 0", "mode 3 of 1", "mode 3 of 2"} {
		if seen[want] == 0 {
			t.Errorf("no stream had %s: %v", want, seen)
		}
	}
}

// survey counts what a stream of one frame has.
func survey(t *testing.T, b []byte, seen map[string]int) {
	t.Helper()
	b = b[headerLength(b[4]):]
	var tables tables
	for last := false; !last; {
		var kind, n int
		last, kind, n = readBlockHead(b)
		seen[fmt.Sprint("block ", kind)]++
		b = b[3:]
		if kind == blockRun {
			n = 1
		}
		block := b[:n]
		b = b[n:]
		if kind != blockPacked {
			continue
		}
		s, ok := tables.readSection(block, len(block))
		if !ok {
			t.Fatal("literals that cannot be read")
		}
		seen[fmt.Sprint("literals ", s.kind)]++
		seen[fmt.Sprint("streams ", s.streams)]++
		rest := block[s.head+s.payload:]
		at := 1
		switch {
		case rest[0] == 0:
			seen["no sequences"]++
			continue
		case rest[0] == 255:
			at = 3
		case rest[0] >= 128:
			at = 2
		}
		for k := range 3 {
			seen[fmt.Sprintf("mode %d of %d", rest[at]>>(6-2*k)&3, k)]++
		}
	}
}

// TestFrames: a stream of many frames, with others between them that are to be skipped, before them and after, as in zstd:chunked.
func TestFrames(t *testing.T) {
	for _, first := range []int{0, 3, 100 << 10, 3 << 20} {
		var stream, plain []byte
		if first > 0 {
			stream = append(stream, skippable(first)...)
		}
		for i := range 60 {
			part := text(i*i*20, uint64(i))
			stream = append(stream, pack(t, part, zstd.WithZeroFrames(true))...)
			plain = append(plain, part...)
			if i%9 == 4 {
				stream = append(stream, skippable(i*1000)...)
			}
		}
		stream = append(stream, skippable(2<<20)...)
		roundTrip(t, strconv.Itoa(first), stream, plain)
	}
	// Too little for a cluster before more than a recipe can hold.
	for _, n := range []int{0, 1, 100, cluster.Min - 1, cluster.Min} {
		before, after := text(n, 1), text(cluster.Size+5, 2)
		stream := append(pack(t, before, zstd.WithZeroFrames(true)), skippable(3<<20)...)
		roundTrip(t, fmt.Sprint(n, " bytes"), append(stream, pack(t, after)...), append(before, after...))
	}
	roundTrip(t, "nothing but what is skipped", skippable(5), nil)
}

// TestLargeFiles: clusters begin with large files.
func TestLargeFiles(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	begins := map[int64]bool{}
	for i, size := range []int{9000, cluster.LargeFile, 100, 2*cluster.Size + 5, cluster.LargeFile - 1, 8000, cluster.Size - 1024, cluster.LargeFile, cluster.LargeFile} {
		if err := w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if size >= cluster.LargeFile {
			begins[int64(b.Len())] = true
		}
		w.Write(text(size, uint64(i)))
		w.Flush()
	}
	w.Close()
	for _, stream := range [][]byte{pack(t, b.Bytes()), pack(t, b.Bytes(), zstd.WithWindowSize(1<<10))} {
		for _, c := range roundTrip(t, "files", stream, b.Bytes()).clusters {
			delete(begins, c.Offset)
		}
		if len(begins) > 0 {
			t.Errorf("no clusters at %v", begins)
		}
	}
}

// TestUnfit: what is not taken is told to be so, before much is done.
func TestUnfit(t *testing.T) {
	data := text(100000, 1)
	long := pack(t, make([]byte, 3*MaxWindow), zstd.WithWindowSize(MaxWindow<<1))
	dictionary := pack(t, data, zstd.WithEncoderDictRaw(5, text(5000, 2)))
	for name, stream := range map[string][]byte{"window": long, "dictionary": dictionary} {
		if _, err := read(stream, &kept{}); !errors.Is(err, cluster.ErrUnfit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read([]byte("\x27\xb5\x2f\xfd of an older format"), &kept{}); !errors.Is(err, api.Corrupt) {
		t.Errorf("legacy: %v", err)
	}
	if stream, ok := reference(t, data, "--long=27"); ok {
		if _, err := read(stream, &kept{}); !errors.Is(err, cluster.ErrUnfit) {
			t.Errorf("long: %v", err)
		}
	}
}

// TestWindow: what lies as far back as a stream may refer to is there.
func TestWindow(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	far := noise(50000, r)
	data := bytes.Join([][]byte{far, noise(MaxWindow-60000, r), far, noise(4<<20, r), text(1<<20, 1), far}, nil)
	roundTrip(t, "klauspost", pack(t, data, zstd.WithWindowSize(MaxWindow), zstd.WithEncoderLevel(zstd.SpeedBetterCompression)), data)
	if stream, ok := reference(t, data, "--zstd=wlog=23", "-5", "--long=23"); ok {
		roundTrip(t, "zstd", stream, data)
	}
}

// TestTruncated: of a stream that ends too early what came is had back, and the end is an error.
func TestTruncated(t *testing.T) {
	stream := pack(t, text(3*cluster.Size, 5))
	for n := range 97 {
		part := stream[:len(stream)*n/97]
		k := &kept{}
		if _, err := read(part, k); !errors.Is(err, api.Corrupt) {
			t.Fatalf("cut at %d of %d: %v", len(part), len(stream), err)
		}
		again, _, err := k.rebuild()
		if errors.Is(err, errRecipe) { // the last cluster ends within a block
			err = nil
		}
		if err != nil || !bytes.HasPrefix(part, again) {
			t.Fatalf("cut at %d: rebuilt %d bytes: %v", len(part), len(again), err)
		}
	}
	broken := NewReader(iotest.TimeoutReader(bytes.NewReader(stream)), func(cluster.Cluster) error { return nil })
	defer broken.Close()
	if _, err := io.ReadAll(broken); !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
}

// TestDamaged: a stream with another bit is refused, or had back as it is, with the content that others see in it.
func TestDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	var streams [][]byte
	for i := range 4 {
		streams = append(streams, pack(t, text(20000+i*100000, uint64(i)), zstd.WithEncoderLevel(zstd.EncoderLevel(1+i)), zstd.WithEncoderCRC(false)))
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.IgnoreChecksum(true))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	whole := 0
	for range 3000 {
		bad := bytes.Clone(streams[r.IntN(len(streams))])
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		k := &kept{}
		got, err := read(bad, k)
		if err != nil {
			if !errors.Is(err, api.Corrupt) && !errors.Is(err, cluster.ErrUnfit) {
				t.Fatal(err)
			}
			continue
		}
		whole++
		want, err := d.DecodeAll(bad, nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, others see %d: %v", len(got), len(want), err)
		}
		if again, _, err := k.rebuild(); err != nil || !bytes.Equal(again, bad) {
			t.Fatalf("rebuilt %d bytes of %d: %v", len(again), len(bad), err)
		}
	}
	if whole == 0 {
		t.Error("none was read to its end")
	}
}

func FuzzReader(f *testing.F) {
	for i := range 4 {
		f.Add(pack(f, text(9000*i, uint64(i)), zstd.WithEncoderLevel(zstd.EncoderLevel(1+i))))
	}
	f.Add(append(skippable(9), pack(f, []byte("content"))...))
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.IgnoreChecksum(true), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		k := &kept{}
		z := NewReader(bytes.NewReader(stream), k.emit)
		defer z.Close()
		got, err := io.ReadAll(io.LimitReader(z, 64<<20))
		if err != nil || len(got) == 64<<20 {
			return
		}
		if again, plain, err := k.rebuild(); err != nil || !bytes.Equal(again, stream) || !bytes.Equal(plain, got) {
			t.Fatalf("rebuilt %d bytes of %d: %v", len(again), len(stream), err)
		}
		if want, err := d.DecodeAll(stream, nil); err == nil && !bytes.Equal(want, got) {
			t.Fatalf("%d bytes, others see %d", len(got), len(want))
		}
	})
}

// FuzzRebuild: no recipe, and no cluster, does more than fail.
func FuzzRebuild(f *testing.F) {
	k := &kept{}
	if _, err := read(pack(f, text(30000, 1)), k); err != nil {
		f.Fatal(err)
	}
	f.Add(k.clusters[0].Data, k.clusters[0].Recipe, k.clusters[0].Data, k.clusters[0].Recipe)
	f.Fuzz(func(t *testing.T, data1, recipe1, data2, recipe2 []byte) {
		k := &kept{[]cluster.Cluster{{Data: data1, Recipe: recipe1}, {Data: data2, Recipe: recipe2}}}
		stream, _, err := k.rebuild()
		if err != nil && !errors.Is(err, api.Corrupt) || len(stream) > 2*cluster.Most+len(recipe1)+len(recipe2)+8*(len(recipe1)+len(recipe2)) {
			t.Errorf("%d bytes: %v", len(stream), err)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	data := text(16<<20, 3)
	stream := pack(b, data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		z := NewReader(bytes.NewReader(stream), func(cluster.Cluster) error { return nil })
		if _, err := io.Copy(io.Discard, z); err != nil {
			b.Fatal(err)
		}
		z.Close()
	}
}
