package shim

import "encoding/binary"

// saved is a row of numbers and strings; what is written in one order is read in the same. No JSON: reading that is what fills a heap.
type saved struct{ b []byte }

func (v *saved) putInt(n int64) { v.b = binary.AppendVarint(v.b, n) }
func (v *saved) putBool(t bool) {
	if t {
		v.putInt(1)
	} else {
		v.putInt(0)
	}
}

func (v *saved) putString(s string) {
	v.putInt(int64(len(s)))
	v.b = append(v.b, s...)
}

func (v *saved) int() int {
	n, size := binary.Varint(v.b)
	v.b = v.b[max(size, 0):]
	return int(n)
}

func (v *saved) bool() bool { return v.int() != 0 }

func (v *saved) string() string {
	n := min(max(v.int(), 0), len(v.b))
	s := string(v.b[:n])
	v.b = v.b[n:]
	return s
}
