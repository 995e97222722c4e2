package image

import (
	"io"
	"os"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/base/weak"
)

// The limits on what a few packed bytes may become. gzip makes at most 1032 bytes of one, zstd any number.
const (
	// defaultUnpacked is how long a layer or an archive may be, unpacked, in bytes: several times the largest images of models.
	defaultUnpacked = 256 << 30
	// defaultRatio is how many unpacked bytes may come of each packed one, once there are more than ratioFrom. Images of distributions are
	// at 2 to 4; a whole layer of text is at 20.
	defaultRatio = 200
	ratioFrom    = 1 << 30
	// The variables that set other limits; 0 means none.
	unpackedEnv = "BRIG_MAX_UNPACKED" // bytes, or with K, M, G or T
	ratioEnv    = "BRIG_MAX_RATIO"
)

// limits are those of one stream; 0: none.
type limits struct{ unpacked, ratio int64 }

func unpackLimits() (limits, error) {
	l := limits{defaultUnpacked, defaultRatio}
	for name, dest := range map[string]*int64{unpackedEnv: &l.unpacked, ratioEnv: &l.ratio} {
		s := os.Getenv(name)
		if s == "" {
			continue
		}
		shift := 0
		if i := strings.IndexByte("KMGT", s[len(s)-1]&^0x20); i >= 0 && name == unpackedEnv {
			s, shift = s[:len(s)-1], 10*(i+1)
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 || n > 1<<62>>shift {
			return l, api.Errorf(api.InvalidArgument, "%s=%s: want a number of bytes, with K, M, G or T where it is a size; 0 is no limit", name, os.Getenv(name))
		}
		*dest = n << shift
	}
	return l, nil
}

// counted counts the packed bytes.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// bound stops a stream that becomes too much.
type bound struct {
	r      io.Reader
	what   string
	packed func() int64 // bytes that it came of
	out    int64
	limits limits
}

// Bound gives what holds an unpacked stream to the limits: packed tells how many bytes it came of. Beyond them it ends with api.Exhausted.
func Bound() (func(unpacked io.Reader, packed func() int64) io.Reader, error) {
	l, err := unpackLimits()
	return func(unpacked io.Reader, packed func() int64) io.Reader {
		return &bound{r: unpacked, what: "archive", packed: packed, limits: l}
	}, err
}

func (b *bound) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.out += int64(n)
	if weak.Bombs {
		return n, err
	}
	switch {
	case b.limits.unpacked > 0 && b.out > b.limits.unpacked:
		return 0, api.Errorf(api.Exhausted, "%s: more than %d bytes unpacked, which is the limit (set another with %s, 0 for none)", b.what, b.limits.unpacked, unpackedEnv)
	case b.limits.ratio > 0 && b.out > ratioFrom && b.out/b.limits.ratio > b.packed():
		return 0, api.Errorf(api.Exhausted, "%s: %d packed bytes became %d, more than %d times as many: a decompression bomb (set another limit with %s, 0 for none)", b.what, b.packed(), b.out, b.limits.ratio, ratioEnv)
	}
	return n, err
}

// unpacker gives a decompressor's errors their kind, and holds it to the limits.
type unpacker struct {
	bound
	io.Closer
}

func newUnpacker(r io.ReadCloser, kind Compression, in *counted, l limits) *unpacker {
	return &unpacker{bound{r: r, what: string(kind), packed: func() int64 { return in.n }, limits: l}, r}
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.bound.Read(p)
	if err != nil && err != io.EOF && api.KindOf(err) == "" {
		err = api.Errorf(api.Corrupt, "%s: %w", u.what, err)
	}
	return n, err
}
