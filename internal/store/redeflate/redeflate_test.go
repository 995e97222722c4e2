package redeflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"

	"brig/internal/store/cluster"
)

// kept is what an emit keeps of clusters.
type kept struct{ clusters []cluster.Cluster }

func (k *kept) emit(c cluster.Cluster) error {
	c.Data, c.Recipe = bytes.Clone(c.Data), bytes.Clone(c.Recipe)
	k.clusters = append(k.clusters, c)
	return nil
}

func (k *kept) rebuild() ([]byte, error) {
	rest := k.clusters
	return io.ReadAll(Rebuild(func() ([]byte, []byte, error) {
		if len(rest) == 0 {
			return nil, nil, io.EOF
		}
		c := rest[0]
		rest = rest[1:]
		return c.Data, c.Recipe, nil
	}))
}

// size is what the clusters and the recipes take, in bytes, whole blocks of 4096 for the clusters.
func (k *kept) size() (data, recipe int) {
	for _, c := range k.clusters {
		data += (len(c.Data) + 4095) &^ 4095
		recipe += len(c.Recipe)
	}
	return data, recipe
}

// roundTrip unpacks a stream, unpacks each cluster by another's decompressor, and rebuilds the stream.
func roundTrip(t *testing.T, name string, stream, want []byte) *kept {
	t.Helper()
	k := &kept{}
	got, err := io.ReadAll(NewReader(bytes.NewReader(stream), k.emit))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: unpacked %d bytes of %d, equal %v: %v", name, len(got), len(want), bytes.Equal(got, want), err)
	}
	var at int64
	for i, c := range k.clusters {
		plain, err := inflate(c.Data)
		if err != nil || c.Offset != at || len(plain) != c.Size || !bytes.Equal(plain, want[at:at+int64(c.Size)]) {
			t.Fatalf("%s: cluster %d at %d (%d), size %d (%d): %v", name, i, c.Offset, at, c.Size, len(plain), err)
		}
		if len(c.Data) > cluster.MaxData || len(c.Data) == 0 || c.Data[0] == 0 {
			t.Fatalf("%s: cluster %d has %d bytes", name, i, len(c.Data))
		}
		at += int64(c.Size)
	}
	if err := inPlace(k.clusters, want); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if at != int64(len(want)) {
		t.Fatalf("%s: the clusters hold %d bytes of %d", name, at, len(want))
	}
	again, err := k.rebuild()
	if err != nil || !bytes.Equal(again, stream) {
		t.Fatalf("%s: rebuilt %d bytes of %d: %v", name, len(again), len(stream), err)
	}
	return k
}

func pack(t testing.TB, level int, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return b.Bytes()
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
			noise := make([]byte, r.IntN(3000))
			for i := range noise {
				noise[i] = byte(r.Uint32())
			}
			b.Write(noise)
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

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 5, 4096, window - 1, window, window + 1, cluster.Size - 1, cluster.Size, cluster.Size + 1, cluster.Size + window + 7, 3*cluster.Size + 12345} {
		data := text(n, uint64(n))
		for level := -2; level <= 9; level++ {
			roundTrip(t, fmt.Sprintf("%d bytes at level %d", n, level), pack(t, level, data), data)
		}
		for _, level := range []int{1, 3, 6, 9} {
			var b bytes.Buffer
			w, _ := gzip.NewWriterLevel(&b, level)
			w.Write(data)
			w.Close()
			roundTrip(t, fmt.Sprintf("%d bytes of klauspost's level %d", n, level), b.Bytes(), data)
		}
	}
	zeros := make([]byte, 3*cluster.Size)
	roundTrip(t, "zeros", pack(t, 9, zeros), zeros)
	noise := make([]byte, 3*cluster.Size)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	roundTrip(t, "noise", pack(t, 6, noise), noise)
	// More than one member, flushes, a header with all that it can have.
	var b, plain bytes.Buffer
	for i := range 40 {
		w, _ := stdgzip.NewWriterLevel(&b, i%10)
		w.Name, w.Comment, w.Extra = "a name", "a comment", []byte("extra")
		for range 5 {
			part := text(i*3000, uint64(i))
			w.Write(part)
			plain.Write(part)
			w.Flush()
		}
		w.Close()
	}
	roundTrip(t, "members", b.Bytes(), plain.Bytes())
}

// TestStored: what is not compressed goes through all the same.
func TestStored(t *testing.T) {
	for _, n := range []int{0, 1, maxStored, maxStored + 1, cluster.Size - 1, cluster.Size, cluster.Size + 1, 3*cluster.Size + 5} {
		data := text(n, 4)
		k := &kept{}
		got, err := io.ReadAll(NewStored(iotest.HalfReader(bytes.NewReader(data)), k.emit))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		for _, c := range k.clusters {
			plain, err := inflate(c.Data)
			if err != nil || !bytes.Equal(plain, data[c.Offset:c.Offset+int64(c.Size)]) || c.Data[0] == 0 {
				t.Fatalf("%d bytes: cluster at %d: %v", n, c.Offset, err)
			}
		}
		if again, err := k.rebuild(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%d bytes: rebuilt %d: %v", n, len(again), err)
		}
	}
	broken := NewStored(iotest.TimeoutReader(bytes.NewReader(text(cluster.Size*2, 1))), func(cluster.Cluster) error { return nil })
	if _, err := io.ReadAll(broken); !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
}

// TestForeign: streams of the compressors that layers come from.
func TestForeign(t *testing.T) {
	data := text(4<<20, 7)
	for _, cmd := range []string{"gzip -1", "gzip -6", "gzip -9", "pigz -6", "pigz -11", "zopfli -c --i1 /dev/stdin", "libdeflate-gzip -12", "7z a -tgzip -si -so x"} {
		args := strings.Fields(cmd)
		if _, err := exec.LookPath(args[0]); err != nil {
			continue
		}
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = bytes.NewReader(data)
		out, err := c.Output()
		if err != nil {
			t.Errorf("%s: %v", cmd, err)
			continue
		}
		k := roundTrip(t, cmd, out, data)
		d, r := k.size()
		t.Logf("%s: %d bytes become %d and %d: %.3f", cmd, len(out), d, r, float64(d+r)/float64(len(out)))
	}
}

// TestSmallReads: the source gives a byte at a time, the reader takes a few.
func TestSmallReads(t *testing.T) {
	data := text(700_000, 3)
	k := &kept{}
	got, err := io.ReadAll(iotest.OneByteReader(NewReader(iotest.HalfReader(bytes.NewReader(pack(t, 6, data))), k.emit)))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
	one, err := io.ReadAll(NewReader(iotest.OneByteReader(bytes.NewReader(pack(t, 6, data[:100_000]))), k.emit))
	if err != nil || !bytes.Equal(one, data[:100_000]) {
		t.Fatal(err)
	}
}

// TestCutAndFlipped: what is cut short or changed is an error or other bytes, never a panic, and never hangs.
func TestCutAndFlipped(t *testing.T) {
	data := text(200_000, 5)
	stream := pack(t, 6, data)
	drop := func(cluster.Cluster) error { return nil }
	for n := 0; n < len(stream); n += 1 + n/50 {
		if _, err := io.ReadAll(NewReader(bytes.NewReader(stream[:n]), drop)); err == nil {
			t.Fatalf("cut at %d of %d: no error", n, len(stream))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		bad := bytes.Clone(stream)
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		got, err := io.ReadAll(NewReader(bytes.NewReader(bad), drop))
		want, werr := inflateAll(bad)
		if err == nil && werr == nil && !bytes.Equal(got, want) {
			t.Fatal("unpacked otherwise than the standard library")
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("%v, the standard library says %v", err, werr)
		}
	}
}

// TestUnfit: streams without end that give nothing are refused, in bounded memory.
func TestUnfit(t *testing.T) {
	head := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}
	empty := bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, 1<<20)
	_, err := io.ReadAll(NewReader(io.MultiReader(bytes.NewReader(head), bytes.NewReader(empty)), func(cluster.Cluster) error { return nil }))
	if !errors.Is(err, cluster.ErrUnfit) {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	for i := range 10 {
		f.Add(pack(f, i, text(3000*i, uint64(i))))
		f.Add(pack(f, i, archive(f, 9000, cluster.LargeFile+i, 2000, cluster.LargeFile+100*i)))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		k := &kept{}
		got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(stream), k.emit), 64<<20))
		want, werr := inflateAll(stream)
		if errors.Is(err, cluster.ErrUnfit) || len(got) == 64<<20 {
			return
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("%v, the standard library says %v", err, werr)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(got, want) {
			t.Fatal("other bytes than the standard library's")
		}
		for _, c := range k.clusters {
			if plain, err := inflate(c.Data); err != nil || !bytes.Equal(plain, want[c.Offset:c.Offset+int64(c.Size)]) {
				t.Fatal("the cluster at", c.Offset, "holds something else:", err)
			}
		}
		if again, err := k.rebuild(); err != nil || !bytes.Equal(again, stream) {
			t.Fatal("not rebuilt:", err)
		}
	})
}

func FuzzRebuild(f *testing.F) {
	for i := range 10 {
		k := &kept{}
		io.ReadAll(NewReader(bytes.NewReader(pack(f, i, text(60000*i, uint64(i)))), k.emit))
		io.ReadAll(NewReader(bytes.NewReader(pack(f, i, archive(f, 9000, cluster.LargeFile, 9000))), k.emit))
		for _, c := range k.clusters {
			f.Add(c.Data, c.Recipe)
		}
	}
	f.Fuzz(func(t *testing.T, data, recipe []byte) {
		done := false
		io.Copy(io.Discard, Rebuild(func() ([]byte, []byte, error) {
			if done {
				return nil, nil, io.EOF
			}
			done = true
			return data, recipe, nil
		}))
	})
}

// BenchmarkReader unpacks the file of REDEFLATE_FILE, a gzip stream, or what the test makes.
func BenchmarkReader(b *testing.B) {
	stream := pack(b, 6, text(32<<20, 9))
	if name := os.Getenv("REDEFLATE_FILE"); name != "" {
		var err error
		if stream, err = os.ReadFile(name); err != nil {
			b.Fatal(err)
		}
	}
	var data, recipe int
	for _, c := range []struct {
		name string
		run  func() (int64, error)
	}{
		{"redeflate", func() (int64, error) {
			data, recipe = 0, 0
			return io.Copy(io.Discard, onlyReader{NewReader(bytes.NewReader(stream), func(c cluster.Cluster) error {
				data += (len(c.Data) + 4095) &^ 4095
				recipe += len(c.Recipe)
				return nil
			})})
		}},
		{"klauspost", func() (int64, error) {
			z, err := gzip.NewReader(bytes.NewReader(stream))
			if err != nil {
				return 0, err
			}
			return io.Copy(io.Discard, onlyReader{z})
		}},
		{"standard", func() (int64, error) {
			z, err := stdgzip.NewReader(bytes.NewReader(stream))
			if err != nil {
				return 0, err
			}
			return io.Copy(io.Discard, onlyReader{z})
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				n, err := c.run()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(n)
			}
			if c.name == "redeflate" {
				b.ReportMetric(float64(data)/float64(len(stream)), "data/stream")
				b.ReportMetric(float64(recipe)/float64(len(stream)), "recipe/stream")
			}
		})
	}
}

type onlyReader struct{ io.Reader }
