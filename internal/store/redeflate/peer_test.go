package redeflate

import (
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"errors"
	"io"
)

// inflate unpacks one cluster by the standard library.
func inflate(b []byte) ([]byte, error) { return io.ReadAll(flate.NewReader(bytes.NewReader(b))) }

// inflateAll unpacks a gzip stream by the standard library, without regard to the checksums.
func inflateAll(b []byte) ([]byte, error) {
	var all []byte
	r := bytes.NewReader(b)
	for members := 0; ; members++ {
		if r.Len() == 0 && members > 0 {
			return all, nil
		}
		before := r.Len()
		z, err := stdgzip.NewReader(r)
		if errors.Is(err, stdgzip.ErrHeader) && before-r.Len() >= 10 {
			return all, err
		}
		if err != nil {
			return all, err
		}
		z.Multistream(false)
		part, err := io.ReadAll(z)
		all = append(all, part...)
		if err != nil && !errors.Is(err, stdgzip.ErrChecksum) {
			return all, err
		}
	}
}
