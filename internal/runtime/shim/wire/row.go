package wire

import "encoding/binary"

// row is a row of numbers and strings; what is written in one order is read in the same. What is missing at its end is zero, what is too
// much is not looked at: so a row may grow at its end, and programs of two versions still read each other's.
// No JSON: reading that is what fills a heap.
type row struct{ b []byte }

func (v *row) putInt(n int64) { v.b = binary.AppendVarint(v.b, n) }
func (v *row) putBool(t bool) {
	if t {
		v.putInt(1)
	} else {
		v.putInt(0)
	}
}

func (v *row) putString(s string) {
	v.putInt(int64(len(s)))
	v.b = append(v.b, s...)
}

func (v *row) putStrings(list []string) {
	v.putInt(int64(len(list)))
	for _, s := range list {
		v.putString(s)
	}
}

func (v *row) int() int {
	n, size := binary.Varint(v.b)
	if size <= 0 { // its end, or a number that is none: nothing behind it means anything
		v.b = nil
		return 0
	}
	v.b = v.b[size:]
	return int(n)
}

func (v *row) bool() bool { return v.int() != 0 }

func (v *row) string() string {
	n := v.count()
	s := string(v.b[:n])
	v.b = v.b[n:]
	return s
}

// count reads how many things follow, each of a byte or more: no more than the row can hold.
func (v *row) count() int { return min(max(v.int(), 0), len(v.b)) }

// more counts n things down and ends with the row.
func (v *row) more(n *int) bool {
	*n--
	return *n >= 0 && len(v.b) > 0
}

// strings reads a list; an empty one is nil.
func (v *row) strings() []string {
	var list []string
	for n := v.count(); v.more(&n); {
		list = append(list, v.string())
	}
	return list
}
