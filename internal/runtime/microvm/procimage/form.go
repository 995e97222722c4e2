package procimage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// An image is stored as JSON, but for what there are hundreds of: mappings, pages and ranges are tables of numbers, which are read in a fiftieth of the time. Each start of a process reads them.

// form is a stored image.
type form struct {
	plain
	Specials          []string
	Programs          []Program
	Areas, Runs, Soon table
}

// plain is an Image without its methods.
type plain Image

// table has rows of so many numbers each, of 64 bits.
type table []byte

const (
	areaRow, runRow, rangeRow = 5, 4, 2
	wordLen                   = 8

	// Of an area's third number, above its protection.
	grows, huge, memory = 1 << 32, 1 << 33, 1 << 34
)

func (t *table) add(row ...uint64) {
	for _, v := range row {
		*t = binary.LittleEndian.AppendUint64(*t, v)
	}
}

// rows are the numbers of a table, row by row.
func (t table) rows(row int) ([][]uint64, error) {
	if len(t)%(row*wordLen) != 0 {
		return nil, fmt.Errorf("a table of %d bytes has rows of %d numbers", len(t), row)
	}
	all := make([]uint64, len(t)/wordLen)
	for i := range all {
		all[i] = binary.LittleEndian.Uint64(t[wordLen*i:])
	}
	return slices.Collect(slices.Chunk(all, row)), nil
}

// number is the place of v in a list that it is added to where it is not in it, counted from 1.
func number[T comparable](list *[]T, v T) uint64 {
	i := slices.Index(*list, v)
	if i < 0 {
		i, *list = len(*list), append(*list, v)
	}
	return uint64(i) + 1
}

// Encode is an image as Parse reads it.
func (img *Image) Encode() ([]byte, error) {
	f := form{plain: plain(*img)}
	for _, a := range img.Areas {
		what, of := uint64(a.Prot), uint64(0)
		for _, flag := range []struct {
			is  bool
			bit uint64
		}{{a.Grows, grows}, {a.Huge, huge}, {a.Memory, memory}} {
			if flag.is {
				what |= flag.bit
			}
		}
		if a.Special != "" {
			of = number(&f.Specials, a.Special)
		}
		if a.Program != nil {
			of |= number(&f.Programs, *a.Program) << 32
		}
		f.Areas.add(a.Start, a.End, what, of, a.Offset)
	}
	for _, r := range img.Runs {
		f.Runs.add(uint64(r.Area), r.Start, r.Len, r.Offset)
	}
	for _, r := range img.Soon {
		f.Soon.add(r.Start, r.Len)
	}
	return json.Marshal(&f)
}

// Parse reads what Encode wrote.
func Parse(data []byte) (*Image, error) {
	img, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("the image of a process: %w", err)
	}
	return img, img.check()
}

func parse(data []byte) (*Image, error) {
	var f form
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	img := Image(f.plain)
	areas, err := f.Areas.rows(areaRow)
	if err != nil {
		return nil, err
	}
	for _, v := range areas {
		a := Area{Start: v[0], End: v[1], Prot: int(uint32(v[2])), Grows: v[2]&grows != 0, Huge: v[2]&huge != 0, Memory: v[2]&memory != 0, Offset: v[4]}
		special, program := v[3]&(1<<32-1), v[3]>>32
		if special > uint64(len(f.Specials)) || program > uint64(len(f.Programs)) {
			return nil, errors.New("a mapping is of a file that it does not have")
		}
		if special > 0 {
			a.Special = f.Specials[special-1]
		}
		if program > 0 {
			a.Program = &f.Programs[program-1]
		}
		img.Areas = append(img.Areas, a)
	}
	runs, err := f.Runs.rows(runRow)
	if err != nil {
		return nil, err
	}
	for _, v := range runs {
		if v[0] >= uint64(len(img.Areas)) {
			return nil, fmt.Errorf("pages of mapping %d of %d", v[0], len(img.Areas))
		}
		img.Runs = append(img.Runs, Run{Area: int(v[0]), Start: v[1], Len: v[2], Offset: v[3]})
	}
	soon, err := f.Soon.rows(rangeRow)
	if err != nil {
		return nil, err
	}
	for _, v := range soon {
		img.Soon = append(img.Soon, Range{Start: v[0], Len: v[1]})
	}
	return &img, nil
}
